"""New plans with an `iac` section, beside the preprocessed data set's own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_iac.runs import plans
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.settings import parse_assignment

PATHS = ("genotype", "backbone_checkpoint")
"""Settings that are paths; a relative one means the folder the plans are made in."""


def write_plans(
    dataset: str, configuration: str, source: str, name: str, assignments: Sequence[str]
) -> tuple[Path, bool]:
    """Write the plans `name`; return their file, and whether that changed anything.

    Args:
        dataset: id or name.
        configuration: the one that gets the settings.
        source: identifier of the plans to start from, and from their settings if they have any.
        name: the new identifier.
        assignments: settings as `key=value`; a later one wins.

    Raises:
        ValueError: a bad identifier, configuration or setting, an unknown data set, or `name`
            exists with other content.
        FileNotFoundError: no such source plans; the message has the command that makes them.
        RuntimeError: nnUNet_preprocessed is not set.
    """
    values = dict(parse_assignment(assignment) for assignment in assignments)
    for key in PATHS:
        if values.get(key) is not None:
            # Unlike Path.expanduser, os.path's leaves an unknown user as it is.
            values[key] = str(Path(os.path.expanduser(values[key])).absolute())
    plans.require_identifier(name)
    folder = preprocessed_folder(dataset)
    source_file = folder / f"{source}.json"
    if not source_file.is_file():
        raise FileNotFoundError(
            f"the source plans must exist; {source_file} does not: make them with\n"
            f"  {_preprocess_command(dataset, configuration, source)}"
        )
    original = read_json(source_file)
    known = plans.configuration_of(original, configuration).get(plans.SECTION, {})
    names = {"plans_name": source, "dataset_name": folder.name}
    found = {"dataset_name": folder.name, **original}
    for key, wanted in names.items():
        if found.get(key) != wanted:
            raise ValueError(
                f"{key} in {source_file} must be {wanted!r}, as file and folder are called; got "
                f"{found.get(key)!r}: correct it, for nnU-Net names its folders after it"
            )
    new = plans.derived(original, name, configuration, {**known, **values})
    new_file = folder / f"{name}.json"
    return new_file, plans.write_new(new_file, new)


def preprocessed_folder(dataset: str) -> Path:
    """Return nnU-Net's folder of a preprocessed data set, given by id or name.

    Raises:
        ValueError: no such data set.
        RuntimeError: nnUNet_preprocessed is not set.
    """
    if not nnUNet_preprocessed.is_set():
        raise RuntimeError(
            "the environment variable nnUNet_preprocessed must name nnU-Net's folder of "
            "preprocessed data and is not set; run `export nnUNet_preprocessed=/path/to/it`"
        )
    try:
        name = maybe_convert_to_dataset_name(dataset)
        plans.dataset_number(name)
        if Path(name).name != name:
            raise ValueError(f"{name} is a path")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "the data set must be an id or a full name such as Dataset004_Hippocampus, and be "
            f"unique and present in nnU-Net's folders; got {dataset!r}: check it and "
            f"nnUNet_raw, nnUNet_preprocessed (now {nnUNet_preprocessed}) and nnUNet_results"
        ) from error
    return Path(nnUNet_preprocessed) / name


@contextmanager
def built_from_plans() -> Iterator[None]:
    """Say that the plans are at fault where a network cannot be built from them.

    Raises:
        ValueError: names what the network's class did not take.
    """
    try:
        yield
    except (
        TypeError,
        LookupError,
        AttributeError,
        ImportError,
        AssertionError,
        ValueError,
    ) as error:
        raise ValueError(
            'the network that plans describe under "architecture" must be one that can be built; '
            f"it is not ({type(error).__name__}: {error}): make the plans again with "
            "nnUNetv2_plan_experiment"
        ) from error


def _preprocess_command(dataset: str, configuration: str, source: str) -> str:
    command = f"nnUNetv2_plan_and_preprocess -d {plans.dataset_number(dataset)} -c {configuration}"
    return command if source == "nnUNetPlans" else f"{command} -overwrite_plans_name {source}"
