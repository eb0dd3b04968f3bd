"""Inference with cells against the reference network."""

import statistics
from typing import Any

import torch

from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.training.cost import network_cost


def inference_benchmark(
    workload: Workload, cells: int, repeats: int, genotype: Genotype | None
) -> dict[str, Any]:
    """Return ratios to the reference net for one patch: of random cells, and of a given one."""
    reference = _for_inference(workload.unet())
    genotypes = [random_genotype(seed) for seed in range(cells)]
    rows = [_against(workload, reference, found, repeats) for found in genotypes]
    ratios = [row["ratio"] for row in rows]
    worst = ratios.index(max(ratios))
    return {
        "reference_s": statistics.median(row["reference_s"] for row in rows),
        "cell_s": statistics.median(row["cell_s"] for row in rows),
        "inference_ratio": statistics.median(ratios),
        "inference_ratio_worst": ratios[worst],
        "parameter_ratio": statistics.median(row["parameter_ratio"] for row in rows),
        "mac_ratio": statistics.median(row["mac_ratio"] for row in rows),
        "cells": cells,
        "worst": {"genotype": str(genotypes[worst]), **rows[worst]},
        "given": None if genotype is None else _against(workload, reference, genotype, repeats),
    }


def _against(
    workload: Workload, reference: Any, genotype: Genotype, repeats: int
) -> dict[str, float]:
    network = workload.retrofit()
    network.discretise(genotype)
    _for_inference(network)
    size = (1, workload.input_channels, *workload.patch_size)
    image = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(workload.device)
    on_gpu = workload.device == "cuda"

    def run(net: Any) -> None:
        with torch.inference_mode(), torch.autocast(workload.device, enabled=on_gpu):
            net(image)

    seconds = interleaved(
        {"reference": lambda: run(reference), "cell": lambda: run(network)},
        repeats,
        workload.device,
    )
    device = torch.device(workload.device)
    costs = [
        network_cost(net, workload.input_channels, workload.patch_size, device)
        for net in (reference, network)
    ]
    # alpha and beta ride along in the network but take no part in inference.
    unused = network.alpha.numel() + network.beta.numel()
    return {
        "reference_s": seconds["reference"],
        "cell_s": seconds["cell"],
        "ratio": seconds["cell"] / seconds["reference"],
        "reference_parameters": costs[0].parameters,
        "cell_parameters": costs[1].parameters - unused,
        "parameter_ratio": (costs[1].parameters - unused) / costs[0].parameters,
        "reference_macs": costs[0].macs,
        "cell_macs": costs[1].macs,
        "mac_ratio": costs[1].macs / costs[0].macs,
    }


def _for_inference(network: Any) -> Any:
    network.eval()
    network.decoder.deep_supervision = False
    return network
