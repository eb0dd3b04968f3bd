"""The command nnunet-iac. Every verb imports what it needs, so that the light ones start fast."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nnunet_iac

if TYPE_CHECKING:
    from nnunet_iac.runs.folder import RunFolder

STUDY_MODULES = ("snakemake", "yaml", "jsonschema")
"""What the extra `study` brings."""
ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `onnx` brings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit status.

    0; 1 where the doctor found faults, a replay disagrees or an ONNX file is not its network; 2 for
    an error.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.verb(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-iac", description="Implantable Adaptive Cells for nnU-Net."
    )
    parser.add_argument("--version", action="version", version=nnunet_iac.__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="the whole method on a small real data set, in minutes")
    demo.add_argument("-o", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    _add_device(demo)
    demo.set_defaults(verb=_demo)

    plan = verbs.add_parser("plan", help="write a new plans identifier that carries settings")
    _add_source(plan)
    plan.add_argument("-o", metavar="NEW_ID", required=True, help="identifier of the new plans")
    _add_settings(plan, "settings; may be given more than once")
    plan.add_argument(
        "--encoder",
        metavar="NAME",
        help="plain, vgg16, resnet50, mobilenetv3_large, efficientnetv2_s or efficientnetv2_m",
    )
    plan.add_argument(
        "--encoder-weights",
        metavar="FILE",
        type=Path,
        help="ImageNet weights of the encoder as timm has them; nothing is ever downloaded",
    )
    plan.add_argument(
        "--skip",
        metavar="NAME",
        help="attention, nested or residual-attention, trained from scratch",
    )
    plan.add_argument(
        "--protocol", metavar="NAME", help="paper: patch, batch size and training of its backbones"
    )
    plan.set_defaults(verb=_plan)

    xtiny = verbs.add_parser(
        "xtiny",
        help="choose a U-Net's width before training and write plans for it",
        description="Scores narrower copies of the planned network at initialisation, on crops of "
        "the fold's training cases (XTinyU-Net), and writes plans for the width that is picked.",
    )
    _add_source(xtiny)
    xtiny.add_argument(
        "-tr", metavar="TRAINER", default="nnUNetTrainer", help="whose network is scored"
    )
    xtiny.add_argument("-f", metavar="FOLD", type=_fold, default=0, help="default: 0")
    xtiny.add_argument("-K", metavar="N", type=int, default=16, help="images (default: 16)")
    xtiny.add_argument(
        "--seeds", metavar="N", type=int, help="initialisations (default: 8; dispersion: 16)"
    )
    xtiny.add_argument(
        "--rule",
        choices=("curve", "slope", "dispersion"),
        default="curve",
        help="default: curve; dispersion is experimental",
    )
    caps = xtiny.add_mutually_exclusive_group()
    caps.add_argument(
        "--caps", metavar="N,N,...", type=_numbers, help="candidates (default: halves down to 1)"
    )
    caps.add_argument("--cap", metavar="N", type=int, help="take this width, without scoring")
    xtiny.add_argument(
        "--within",
        metavar="LARGEST,SMALLEST",
        type=_range,
        help="caps between which the rule may pick (default: the published range)",
    )
    xtiny.add_argument("--score", choices=("sum", "frobenius"), default="sum", help="default: sum")
    _add_device(xtiny)
    xtiny.add_argument(
        "-o", metavar="NEW_ID", help="identifier of the new plans (default: PLANS_xtiny<cap>)"
    )
    xtiny.add_argument("--dry-run", action="store_true", help="write nothing")
    xtiny.set_defaults(verb=_xtiny)

    pareto = verbs.add_parser(
        "pareto",
        help="train methods at several widths and draw Dice against cost",
        description="Trains the reference and the methods on top of it at every width, as a study, "
        "and draws Dice against parameters and MACs. Run again, it goes on.",
    )
    _add_source(pareto)
    pareto.add_argument(
        "--caps", metavar="N,N,...", type=_numbers, required=True, help="the widths"
    )
    pareto.add_argument(
        "--methods",
        metavar="NAME,...",
        default="reference,continued,iac-lth,random",
        help="of reference, continued, iac-lth, iac, random (default: all but iac)",
    )
    pareto.add_argument("-f", metavar="N,N,...", type=_numbers, default=[0], help="default: 0")
    pareto.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="of the reference")
    _add_settings(pareto, "settings of the other methods")
    _add_device(pareto)
    pareto.add_argument(
        "-o", metavar="DIR", type=Path, default=Path("pareto"), help="default: pareto"
    )
    pareto.add_argument("--dry-run", action="store_true", help="print the trainings and stop")
    pareto.set_defaults(verb=_pareto)

    study = verbs.add_parser(
        "study",
        help="train data sets x folds x seeds x backbones x methods, and compare them",
        description="Runs what FILE describes through Snakemake. Run again, it goes on; words "
        "after --snakemake are Snakemake's own, such as --profile DIR.",
    )
    study.add_argument("file", metavar="FILE", type=Path, help="what to train, in YAML")
    study.add_argument("-o", metavar="DIR", type=Path, help="default: nnUNet_results/studies/NAME")
    study.add_argument("--cores", metavar="N", type=int, help="for all jobs (default: all)")
    study.add_argument("--gpus", metavar="N", type=int, help="one for each training (default: all)")
    study.add_argument(
        "--dry-run", action="store_true", help="print the trainings and their hours, and stop"
    )
    study.add_argument("--snakemake", metavar="WORD", nargs=argparse.REMAINDER, default=[])
    study.set_defaults(verb=_study)

    export = verbs.add_parser(
        "export",
        help="make a model folder that stock nnU-Net predicts with, and ONNX files",
        description="Writes a model folder whose plans name the retrofitted network, so that the "
        "stock nnUNetTrainer builds it and only this package must be installed.",
    )
    export.add_argument(
        "model", metavar="FOLD_OR_MODEL", type=Path, help="a fold folder, or a model folder"
    )
    export.add_argument("-o", metavar="DIR", type=Path, required=True, help="a new folder")
    export.add_argument(
        "-chk", metavar="FILE", default="checkpoint_final.pth", help="default: the final one"
    )
    export.add_argument(
        "--onnx", action="store_true", help="also an ONNX file per fold, compared on real cases"
    )
    export.add_argument(
        "--cases", metavar="N", type=int, default=2, help="validation cases to compare (default: 2)"
    )
    export.set_defaults(verb=_export)

    show = verbs.add_parser("show", help="print and draw a found cell")
    show.add_argument("path", metavar="PATH", type=Path, help="genotype, fold or checkpoint")
    show.add_argument("-o", metavar="FILE", type=Path, help="draw it as .svg or .png")
    show.set_defaults(verb=_show)

    replay = verbs.add_parser(
        "replay", help="recompute a search's decisions from its trajectory; 1 if they disagree"
    )
    replay.add_argument("fold", metavar="FOLD", type=Path, help="fold folder, or its iac folder")
    replay.set_defaults(verb=_replay)

    compare = verbs.add_parser(
        "compare",
        help="test one nnU-Net against another on the same cases, by patient",
        description="DIR: a model, a fold, a run's iac/reference, or predictions that "
        "nnUNetv2_evaluate_folder has scored. A model stands for all its folds.",
    )
    compare.add_argument(
        "-a",
        metavar="DIR",
        type=Path,
        action="append",
        required=True,
        help="the reference: the frozen network; once, or once for each -b",
    )
    compare.add_argument(
        "-b",
        metavar="DIR",
        type=Path,
        action="append",
        required=True,
        help="what is compared to it; may be given more than once",
    )
    compare.add_argument(
        "--control",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="what each -b must beat, such as a random cell; may be given more than once",
    )
    compare.add_argument(
        "-o", metavar="DIR", type=Path, help="write comparison.csv, .json and .tex here"
    )
    compare.add_argument(
        "--margin",
        metavar="DICE",
        type=float,
        default=0.01,
        help="loss up to which b is not inferior (default: 0.01)",
    )
    compare.add_argument("--seed", metavar="N", type=int, default=0, help="of the bootstrap")
    compare.add_argument(
        "--patient-pattern",
        metavar="RE",
        help="regular expression whose match in a case id is the patient (default: the runs' own)",
    )
    compare.add_argument(
        "--surface", action="store_true", help="HD95 and NSD, too; needs the extra surface"
    )
    compare.add_argument("--tolerance", metavar="MM", type=float, help="of NSD (default: 1)")
    compare.add_argument(
        "--unrelated", action="store_true", help="a is not meant as the network that b froze"
    )
    compare.set_defaults(verb=_compare)

    report = verbs.add_parser(
        "report",
        help="a page about one or many runs, finished or not",
        description="RUN: a fold folder with a record, a model folder, or a folder of models. "
        "Controls that lie beside a run are taken in.",
    )
    report.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    report.add_argument("-o", metavar="DIR", type=Path, required=True, help="where it goes")
    report.add_argument(
        "--paper", action="store_true", help="the paper's tables and figures as well, in DIR/paper"
    )
    report.add_argument(
        "--margin",
        metavar="DICE",
        type=float,
        default=0.01,
        help="loss up to which cells are not inferior (default: 0.01)",
    )
    report.add_argument("--seed", metavar="N", type=int, default=0, help="of the bootstrap")
    report.set_defaults(verb=_report)

    benchmark = verbs.add_parser(
        "benchmark",
        help="time a training step, whole searches or inference, of your plans if given",
        description="Without -d: nnU-Net's 2-D plan of the Hippocampus data at batch size 12.",
    )
    benchmark.add_argument("kind", choices=("step", "search", "inference"))
    benchmark.add_argument("-d", metavar="ID", help="data set, id or name")
    benchmark.add_argument("-c", metavar="CONFIG", default="2d", help="default: 2d")
    benchmark.add_argument(
        "-p", metavar="PLANS", default="nnUNetPlans", help="default: nnUNetPlans"
    )
    _add_device(benchmark)
    benchmark.add_argument("--json", metavar="FILE", type=Path, help="write the result here, too")
    benchmark.add_argument("--batch-size", metavar="N", type=int)
    benchmark.add_argument("--patch-size", metavar="N", type=int, nargs="+")
    benchmark.add_argument("--features", metavar="N", type=int, nargs="+", help="per stage")
    benchmark.add_argument("--set", dest="assignments", metavar="KEY=VALUE", nargs="+", default=[])
    benchmark.add_argument("--genotype", metavar="PATH", type=Path, help="time this cell as well")
    benchmark.add_argument("--repeats", metavar="N", type=int, default=7, help="default: 7")
    benchmark.add_argument(
        "--batches", metavar="N", type=int, default=2, help="per epoch of a search (default: 2)"
    )
    benchmark.add_argument("--validation-batches", metavar="N", type=int, default=1)
    benchmark.add_argument(
        "--cells", metavar="N", type=int, default=20, help="random cells (default: 20)"
    )
    benchmark.set_defaults(verb=_benchmark)

    doctor = verbs.add_parser("doctor", help="check the installation; 1 if anything failed")
    doctor.set_defaults(verb=_doctor)

    folder = verbs.add_parser("trainers-dir", help="print the folder for nnUNet_extTrainer")
    folder.set_defaults(verb=_trainers_dir)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Add what names the plans that a verb starts from."""
    parser.add_argument("-d", metavar="ID", required=True, help="data set, id or name")
    parser.add_argument("-c", metavar="CONFIG", required=True, help="configuration, such as 2d")
    parser.add_argument(
        "-p",
        metavar="PLANS",
        default="nnUNetPlans",
        help="plans to start from; they stay as they are (default: nnUNetPlans)",
    )


def _add_settings(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help=meaning,
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.report.demo import write_demo_report
    from nnunet_iac.analysis.report.document import write_report
    from nnunet_iac.host.demo import run_demo

    summary = run_demo(arguments.o, arguments.device, lambda line: print(line, flush=True))
    page = write_demo_report(arguments.o, summary)
    own = write_report([arguments.o / summary["run_folder"]], page.parent / "run")
    print(f"report: {page}\nreport of the run alone: {own}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.planning import Network, next_commands, write_plans

    network = Network(arguments.encoder, arguments.skip, arguments.protocol)
    if arguments.encoder_weights is not None and network.encoder is None:
        raise ValueError(
            f"--encoder-weights {arguments.encoder_weights} are for an encoder: add --encoder, or "
            "leave them out"
        )
    path, changed = write_plans(
        arguments.d, arguments.c, arguments.p, arguments.o, arguments.assignments, network
    )
    pretrained = None
    if arguments.encoder_weights is not None:
        from nnunet_iac.host.pretrained import write_pretrained

        try:
            pretrained = write_pretrained(path, arguments.c, arguments.encoder_weights)
        except BaseException:
            if changed:
                path.unlink()
            raise
    print(f"{'wrote' if changed else 'unchanged:'} {path}")
    if pretrained is not None:
        print(f"weights: {pretrained}")
    for line in next_commands(path, arguments.c, pretrained):
        print(line)
    return 0


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f"must be whole numbers with commas, such as 64,32,16,8,4; got {text}"
        )
    return [int(word) for word in words]


def _range(text: str) -> tuple[int, int]:
    numbers = _numbers(text)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(
            f"must be the largest and the smallest cap, such as 64,4; got {text}"
        )
    return numbers[0], numbers[1]


def _fold(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _xtiny(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.planning import next_commands
    from nnunet_iac.width.candidates import with_widest
    from nnunet_iac.width.figure import draw_width
    from nnunet_iac.width.planning import figure_file, require_name, write_width
    from nnunet_iac.width.source import Source
    from nnunet_iac.width.study import choose_width, cost_lines

    if arguments.cap is not None and arguments.within is not None:
        raise ValueError(
            f"--within limits what a rule may pick; --cap {arguments.cap} takes a width without "
            "one: leave one of them out"
        )
    source = Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr)
    if arguments.o is not None:
        require_name(source, arguments.o)
    study = None
    if arguments.cap is None:
        study = choose_width(
            source,
            arguments.rule,
            fold=arguments.f,
            images=arguments.K,
            seeds=None if arguments.seeds is None else range(arguments.seeds),
            score=arguments.score,
            caps=arguments.caps,
            within=arguments.within,
            device=arguments.device,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(*study.lines(), sep="\n")
    else:
        named = with_widest(source.architecture, arguments.cap)
        print(*cost_lines(named, source.costs(named), arguments.cap), sep="\n")
    if arguments.dry_run:
        return 0
    cap = arguments.cap if study is None else study.pick
    chosen = None if study is None else study.document()
    path, written = write_width(source, cap, arguments.o, chosen)
    print(f"{'wrote' if written else 'unchanged:'} {path}")
    if study is not None:
        figure = figure_file(path, arguments.c)
        if not written:
            print("the record of the earlier choice stays; -o NEW_ID would record this one")
        if written or not figure.exists():
            draw_width(study, figure)
            print(f"drawn: {figure}")
    print(*next_commands(path, arguments.c, None), sep="\n")
    return 0


def _pareto(arguments: argparse.Namespace) -> int:
    _require_extra("study", *STUDY_MODULES)
    from nnunet_iac.runs.atomic import read_json
    from nnunet_iac.search.settings import parse_assignment
    from nnunet_iac.width.source import Source
    from nnunet_iac.workflow.engine import plan_lines, run_study
    from nnunet_iac.workflow.estimate import hours_of
    from nnunet_iac.workflow.pareto import Pareto, study_name
    from nnunet_iac.workflow.pareto_figure import draw_pareto
    from nnunet_iac.workflow.pareto_points import points, table, write_points

    pareto = Pareto(
        Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr),
        tuple(arguments.caps),
        tuple(arguments.methods.split(",")),
        tuple(arguments.f),
        dict(parse_assignment(assignment) for assignment in arguments.assignments),
        study_name(arguments.o),
        arguments.device,
    )
    if arguments.dry_run:
        print(*plan_lines(pareto.study(), hours_of(pareto.study())), sep="\n")
        return 0
    page = run_study(pareto.write_study(arguments.o), arguments.o, None, None, [])
    found = points(pareto, read_json(page.with_name("results.json"))["runs"])
    print(table(found))
    write_points(pareto, found, arguments.o / "pareto.json")
    draw_pareto(found, arguments.o / "pareto.png")
    print(f"wrote {arguments.o / 'pareto.json'}\ndrawn: {arguments.o / 'pareto.png'}")
    return 0


def _study(arguments: argparse.Namespace) -> int:
    _require_extra("study", *STUDY_MODULES)
    from nnunet_iac.workflow.engine import plan_lines, run_study
    from nnunet_iac.workflow.study_checks import require_ready
    from nnunet_iac.workflow.study_file import read_study

    if arguments.dry_run:
        from nnunet_iac.workflow.estimate import hours_of

        study = read_study(arguments.file)
        require_ready(study)
        print(*plan_lines(study, hours_of(study)), sep="\n")
        return 0
    page = run_study(
        arguments.file, arguments.o, arguments.cores, arguments.gpus, arguments.snakemake
    )
    stored = "no report here: it is not due yet, or in the storage that Snakemake was given"
    print(f"report: {page}" if page.is_file() else stored)
    return 0


def _require_extra(extra: str, *modules: str) -> None:
    """Check that an extra is installed.

    Raises:
        RuntimeError: a module of it is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"this needs the extra {extra}; {', '.join(missing)} is not installed: run "
            f"`pip install 'nnunet-iac[{extra}]'`"
        )


def _show(arguments: argparse.Namespace) -> int:
    from nnunet_iac.runs.folder import record_beside
    from nnunet_iac.runs.genotype_source import find_genotype, find_output_nodes

    run = record_beside(arguments.path)
    try:
        genotype = find_genotype(arguments.path)
    except (FileNotFoundError, ValueError):
        if run is not None:  # The health matters most while there is no cell yet.
            print(_health(run))
        raise
    print(genotype)
    if run is not None:
        print(f"\n{_health(run)}")
    if arguments.o is not None:
        from nnunet_iac.runs.cell_picture import draw_cell

        draw_cell(genotype, arguments.o, find_output_nodes(arguments.path))
        print(f"drawn: {arguments.o}")
    return 0


def _health(run: "RunFolder") -> str:
    """Return what was noticed about a search as text."""
    if not run.health_file.is_file():
        return "Health:\n  not recorded"
    return "\n  ".join(["Health:", *map(str, run.read_health() or ["nothing to report"])])


def _replay(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.trajectories.replay import replay
    from nnunet_iac.runs.folder import RunFolder

    inside = RunFolder.of_fold(arguments.fold)
    replayed = replay(inside if inside.path.is_dir() else RunFolder(arguments.fold))
    print(replayed)
    return 0 if replayed.agrees else 1


def _export(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.export import Model, export_model

    if arguments.cases < 1:
        raise ValueError(f"--cases must be at least 1; got {arguments.cases}")
    if arguments.onnx:
        _require_extra("onnx", *ONNX_MODULES)
    model = Model.at(arguments.model, arguments.chk)
    if arguments.onnx:
        from nnunet_iac.host.onnx_export import compared, export_fold, require_comparable

        require_comparable(model)
    folds = export_model(model, arguments.o, arguments.chk)
    numbers = " ".join(fold.name.removeprefix("fold_") for fold in folds)
    print(f"exported: {arguments.o}")
    print(f"  nnUNetv2_predict_from_modelfolder -m {arguments.o} -f {numbers} -i IMAGES -o OUT")
    if not arguments.onnx:
        return 0
    alike = True
    for source, fold in zip(model.folds, folds, strict=True):
        predictor, path = export_fold(fold)
        print(f"exported: {path}")
        for found in compared(predictor, path, source, arguments.cases):
            print(f"  {found}", flush=True)
            if not found.holds:
                alike = False
                path.unlink(missing_ok=True)
                print(f"removed: {path}, which must not be used")
                break
    return 0 if alike else 1


def _compare(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.scores.comparison import compare_folders
    from nnunet_iac.analysis.scores.comparison_tables import table, write_comparisons
    from nnunet_iac.analysis.scores.surface import TOLERANCE

    if arguments.tolerance is not None and not arguments.surface:
        raise ValueError(
            f"--tolerance {arguments.tolerance:g} is that of NSD, which --surface measures: add "
            "--surface, or leave it out"
        )
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    made = compare_folders(
        arguments.a,
        arguments.b,
        arguments.control,
        patient_pattern=arguments.patient_pattern,
        margin=arguments.margin,
        seed=arguments.seed,
        tolerance=tolerance if arguments.surface else None,
        unrelated=arguments.unrelated,
    )
    print(table(made))
    if arguments.o is not None:
        for path in write_comparisons(arguments.o, made):
            print(f"wrote {path}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.report.document import write_report

    page = write_report(
        arguments.runs,
        arguments.o,
        paper=arguments.paper,
        margin=arguments.margin,
        seed=arguments.seed,
    )
    print(f"report: {page}")
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    import dataclasses

    from nnunet_iac.benchmark.report import Amounts, benchmark, table
    from nnunet_iac.host.workload import Workload
    from nnunet_iac.runs.atomic import write_json
    from nnunet_iac.runs.genotype_source import find_genotype
    from nnunet_iac.search.settings import Settings, parse_assignment

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
    values = dict(parse_assignment(assignment) for assignment in arguments.assignments)
    settings = Settings.from_mapping({**dataclasses.asdict(workload.settings), **values})
    workload = workload.resized(
        arguments.batch_size, arguments.patch_size, arguments.features, settings
    )
    amounts = Amounts(
        arguments.repeats, arguments.batches, arguments.validation_batches, arguments.cells
    )
    genotype = None if arguments.genotype is None else find_genotype(arguments.genotype)
    measured = benchmark(arguments.kind, workload, amounts, genotype)
    print(table(measured))
    if arguments.json is not None:
        write_json(arguments.json, measured)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.doctor import all_checks

    failed = 0
    for check in all_checks():
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}", flush=True)
        if not check.ok:
            failed += 1
            print(f"      mend: {check.mend}", flush=True)
    print(f"{failed} failed" if failed else "all well")
    return 1 if failed else 0


def _trainers_dir(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.trainer_lookup import trainers_dir

    print(trainers_dir())
    return 0
