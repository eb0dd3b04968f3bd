"""Results with their circumstances, as a mapping for JSON and as a table for the terminal."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_iac.benchmark.inference import inference_benchmark
from nnunet_iac.benchmark.run import run_benchmark
from nnunet_iac.benchmark.search import search_benchmark
from nnunet_iac.benchmark.step import step_benchmark
from nnunet_iac.host.workload import Workload
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.training.provenance import circumstances


@dataclasses.dataclass(frozen=True)
class Amounts:
    """Amounts of what is timed.

    Args:
        repeats: steps or inferences behind a median.
        batches: per epoch of a search; the full one updates weights and architecture in turn.
        validation_batches: per epoch of a search.
        cells: random cells for inference and for the finetuning of a run.
    """

    repeats: int = 7
    batches: int = 2
    validation_batches: int = 1
    cells: int = 20

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = 2 if name == "batches" else 1
            if value < least:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} must be at least {least}; got {value}")


def benchmark(
    kind: str,
    workload: Workload,
    amounts: Amounts,
    genotype: Genotype | None = None,
    loading_s: float | None = None,
) -> dict[str, Any]:
    """Return what was measured, on what, when and with which code."""
    if kind == "step":
        measured = step_benchmark(workload, amounts.repeats)
    elif kind == "run":
        measured = run_benchmark(workload, amounts.repeats, amounts.cells, loading_s)
    elif kind == "search":
        measured = search_benchmark(workload, amounts.batches, amounts.validation_batches)
    else:
        measured = inference_benchmark(workload, amounts.cells, amounts.repeats, genotype)
    on = {"workload": workload.to_mapping(), "amounts": dataclasses.asdict(amounts)}
    return {"benchmark": kind, **circumstances(), **on, **measured}


def table(measured: Mapping[str, Any]) -> str:
    """Return the numbers of a result, one a line."""
    return "\n".join(f"{name:38s} {value}" for name, value in _numbers(measured, ""))


def _numbers(measured: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in measured.items():
        if isinstance(value, Mapping) and name not in ("versions", "hardware"):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.4g}"
        elif value is None or isinstance(value, int | str):
            yield prefix + name, "not measured" if value is None else str(value).replace("\n", "; ")
