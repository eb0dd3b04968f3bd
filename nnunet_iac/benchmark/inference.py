"""Inference with cells against the backbone."""

import statistics
from typing import Any

import torch

from nnunet_iac.benchmark.timing import cudnn_choice, interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import network_cost
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.genotype import Genotype


def inference_benchmark(
    workload: Workload, cells: int, repeats: int, genotype: Genotype | None
) -> dict[str, Any]:
    """Return ratios to the backbone for one patch: of random cells, and of a given one."""
    backbone = _for_inference(workload.unet())
    genotypes = [random_genotype(seed) for seed in range(cells)]
    rows = [_against(workload, backbone, found, repeats) for found in genotypes]
    ratios = [row["ratio"] for row in rows]
    worst = ratios.index(max(ratios))
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {
        "backbone_s": median["backbone_s"],
        "cell_s": median["cell_s"],
        "inference_over_backbone": median["ratio"],
        "inference_over_backbone_worst": ratios[worst],
        "parameter_ratio": median["parameter_ratio"],
        "mac_ratio": median["mac_ratio"],
        "cells": cells,
        "worst": {"genotype": str(genotypes[worst]), **rows[worst]},
        "given": None if genotype is None else _against(workload, backbone, genotype, repeats),
    }


def _against(
    workload: Workload, backbone: Any, genotype: Genotype, repeats: int
) -> dict[str, float]:
    network = workload.retrofit()
    network.discretise(genotype)
    _for_inference(network)
    size = (1, workload.input_channels, *workload.patch_size)
    image = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(workload.device)
    on_gpu = workload.device == "cuda"

    def run(net: Any) -> None:
        autocast = torch.autocast(workload.device, enabled=on_gpu)
        # nnU-Net's predictor has cuDNN time its algorithms.
        with torch.inference_mode(), cudnn_choice(by_timing=True), autocast:
            net(image)

    calls = {"backbone": lambda: run(backbone), "cell": lambda: run(network)}
    seconds = interleaved(calls, repeats, workload.device)
    place = workload.input_channels, workload.patch_size, torch.device(workload.device)
    plain, cell = (network_cost(net, *place) for net in (backbone, network))
    # alpha and beta ride along in the network but take no part in inference.
    parameters = cell.parameters - network.alpha.numel() - network.beta.numel()
    return {
        "backbone_s": seconds["backbone"],
        "cell_s": seconds["cell"],
        "ratio": seconds["cell"] / seconds["backbone"],
        "backbone_parameters": plain.parameters,
        "cell_parameters": parameters,
        "parameter_ratio": parameters / plain.parameters,
        "backbone_macs": plain.macs,
        "cell_macs": cell.macs,
        "mac_ratio": cell.macs / plain.macs,
    }


def _for_inference(network: Any) -> Any:
    network.eval()
    network.decoder.deep_supervision = False
    return network
