"""Time a training step, whole searches, inference, or what whole runs take."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, add_device, parse_settings


def add_benchmark(verbs: Verbs) -> None:
    """Add the verb benchmark."""
    parser = verbs.add_parser(
        "benchmark",
        help="time a step, whole searches, inference or whole runs, of your plans if given",
        description="run: the hours of whole runs, from the seconds of their steps. Without -d: "
        "nnU-Net's 2-D plan of the Hippocampus data at batch size 12, and no loading of data.",
    )
    add = parser.add_argument
    add("kind", choices=("step", "search", "inference", "run"))
    add("-d", metavar="ID", help="data set, id or name")
    add("-c", metavar="CONFIG", default="2d", help="default: 2d")
    add("-p", metavar="PLANS", default="nnUNetPlans", help="default: nnUNetPlans")
    add_device(parser)
    add("--json", metavar="FILE", type=Path, help="write the result here, too")
    add("--batch-size", metavar="N", type=int)
    add("--patch-size", metavar="N", type=int, nargs="+")
    add("--features", metavar="N", type=int, nargs="+", help="per stage")
    add("--set", dest="assignments", metavar="KEY=VALUE", nargs="+", default=[])
    add("--genotype", metavar="PATH", type=Path, help="time this cell as well")
    add("--repeats", metavar="N", type=int, default=7, help="default: 7")
    add("--batches", metavar="N", type=int, default=2, help="per epoch of a search (default: 2)")
    add("--validation-batches", metavar="N", type=int, default=1)
    add("--cells", metavar="N", type=int, default=20, help="random cells (default: 20)")
    parser.set_defaults(verb=_benchmark)


def _benchmark(arguments: argparse.Namespace) -> int:
    from nnunet_iac.benchmark.loading import loading_seconds
    from nnunet_iac.benchmark.report import Amounts, benchmark, table
    from nnunet_iac.host.workload import Workload
    from nnunet_iac.runs.atomic import write_json
    from nnunet_iac.runs.genotype_source import find_genotype

    if arguments.json is not None and arguments.json.is_dir():
        raise ValueError(f"--json must name a file; {arguments.json} is a folder: add a file name")
    if arguments.genotype is not None and arguments.kind != "inference":
        raise ValueError(
            f"--genotype is timed by benchmark inference only; got {arguments.kind}: leave it out"
        )
    if arguments.d is None:
        workload = Workload(device=arguments.device)
    else:
        workload = Workload.of_plans(arguments.d, arguments.c, arguments.p, arguments.device)
    settings = workload.settings.replace(**parse_settings(arguments.assignments))
    sizes = arguments.batch_size, arguments.patch_size, arguments.features
    workload = workload.resized(*sizes, settings)
    amounts = Amounts(
        arguments.repeats, arguments.batches, arguments.validation_batches, arguments.cells
    )
    genotype = None if arguments.genotype is None else find_genotype(arguments.genotype)
    loading = None
    if arguments.kind == "run" and arguments.d is not None:
        named = arguments.d, arguments.c, arguments.p
        loading = loading_seconds(*named, batches=arguments.repeats)
    measured = benchmark(arguments.kind, workload, amounts, genotype, loading)
    print(table(measured))
    if arguments.json is not None:
        write_json(arguments.json, measured)
    return 0
