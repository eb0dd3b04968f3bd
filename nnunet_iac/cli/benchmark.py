"""Time a training step, whole searches, inference, or what whole runs take."""

import argparse
from pathlib import Path

from nnunet_iac.cli.options import (
    Verbs,
    add_device,
    add_plans,
    add_settings,
    add_verb,
    device_of,
    parse_settings,
)


def add_benchmark(verbs: Verbs) -> None:
    """Add the verb benchmark."""
    parser = add_verb(
        verbs,
        "benchmark",
        "estimate hours and memory of searches and trainings on this machine",
        "step: seconds and memory of one training step, and the hours that follow from them. run: "
        "hours of whole runs, final validation left out, how much longer predictions take, and "
        "how long loading takes. search: whole searches on one batch. inference: the network "
        "with cells against its backbone. Without -d, nnU-Net's 2-D plans of the Hippocampus data "
        "at batch size 12 are timed, without loading of data.",
        run=_benchmark,
        examples="""
        nnunet-iac benchmark step -d 4 -c 2d
        nnunet-iac benchmark run -d 4 -c 2d -p nnUNetResEncUNetMPlans --set preset=adaptive
        """,
    )
    add = parser.add_argument
    kinds = ("step", "search", "inference", "run")
    add("kind", choices=kinds, help="what is timed: step, search, inference or run")
    add(
        "-d",
        metavar="DATASET",
        help="data set, id or name (default: none; nnU-Net's 2-D Hippocampus plans)",
    )
    add("-c", metavar="CONFIG", default="2d", help="configuration of the plans")
    add_plans(parser, "plans whose network is timed")
    add_device(parser)
    add("--json", metavar="FILE", type=Path, help="also write the result here (default: nowhere)")
    text = "images in a batch (default: the plans'; 12 without -d)"
    add("--batch-size", metavar="N", type=int, help=text)
    text = "sides of a patch in voxels, such as 64 64 (default: the plans'; 56 40 without -d)"
    add("--patch-size", metavar="N", type=int, nargs="+", help=text)
    text = "channels per stage, such as 32 64 128; without -d only (default: 32 64 128 256)"
    add("--features", metavar="N", type=int, nargs="+", help=text)
    add_settings(parser, "settings of the cells and the search")
    text = "for inference: a genotype, fold or checkpoint to time as well (default: none)"
    add("--genotype", metavar="PATH", type=Path, help=text)
    add("--repeats", metavar="N", type=int, default=7, help="timings behind each median")
    add("--batches", metavar="N", type=int, default=2, help="for search: batches per epoch")
    text = "for search: validation batches per epoch"
    add("--validation-batches", metavar="N", type=int, default=1, help=text)
    text = "for inference and run: random cells that are timed"
    add("--cells", metavar="N", type=int, default=20, help=text)


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
    device = device_of(arguments)
    if arguments.d is None and (arguments.c, arguments.p) != ("2d", "nnUNetPlans"):
        raise ValueError(
            f"-c and -p choose plans of a data set; got {arguments.c} and {arguments.p} alone: "
            "name the data set with -d"
        )
    if arguments.d is None:
        workload = Workload(device=device)
    else:
        workload = Workload.of_plans(arguments.d, arguments.c, arguments.p, device)
    settings = workload.settings.replace(**parse_settings(arguments.assignments))
    sizes = arguments.batch_size, arguments.patch_size, arguments.features
    workload = workload.resized(*sizes, settings)
    amounts = Amounts(
        arguments.repeats, arguments.batches, arguments.validation_batches, arguments.cells
    )
    genotype = None if arguments.genotype is None else find_genotype(arguments.genotype)
    loading = None
    as_planned = arguments.d is not None and sizes[:2] == (None, None)
    if arguments.kind == "run" and as_planned:
        named = arguments.d, arguments.c, arguments.p
        loading = loading_seconds(*named, batches=arguments.repeats)
    measured = benchmark(arguments.kind, workload, amounts, genotype, loading)
    print(table(measured))
    if arguments.json is not None:
        write_json(arguments.json, measured)
    return 0
