"""All settings of a run: flat keys for users, five frozen parts for the code that needs them.

Plans, records, studies and `--set` use the flat keys. A function takes the part it depends on.
"""

import dataclasses
import difflib
import functools
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_iac.search.setting_parts import (
    CellConfig,
    CheckedPart,
    DataConfig,
    Optimisation,
    SearchSchedule,
    StabilityTest,
    TrainablePart,
    converted,
    is_text,
)
from nnunet_iac.search.space import OPERATIONS

PRUNES_PER_EDGE = len(OPERATIONS) - 1
"""Operations an edge loses until one is left."""

RENAMED = {
    "recompute_cells": "activation_checkpointing",
    "stable_checks": "patience",
    "theta": "stability_threshold",
    "kappa": "threshold_growth",
    "reset_theta": "reset_threshold",
    "trained_on": "trainable_part",
}
"""Old spellings of settings, still accepted, and their names now."""

REMOVED: Mapping[str, tuple[Any] | None] = {
    "pruning_score": ("importance",),
    "stability_test": ("js",),
    "beta_decay": (0.0,),
    "max_identity": (None,),
    "held_back": None,
    "score_batches": None,
}
"""Settings that are gone, and the one value of each that means what happens now; None: any."""

FORMER_SETTING = "decoder_norms"
FORMER_NORMS: Mapping[str, TrainablePart | None] = {"frozen": None, "tuned": "cells+norms"}
"""Values of that setting, still accepted, and those of `trainable_part` now."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "literal": {},
    "swift": {"warmup_epochs": 3},
    "paper": {"patience": 6},
    "adaptive": {"reset_threshold": True},
    "adapt": {
        "warmup_epochs": 2,
        "search_epochs": 8,
        "finetune_epochs": 8,
        "iterations_per_epoch": 25,
        "val_iterations_per_epoch": 5,
    },
}
"""Values of each preset that differ from the defaults; `adaptive` also has its own threshold.

`adapt` is for another data set with a few cases: 200 batches of a search as in `literal`, and 200
of finetuning; what does not search is finetuned for all 400. Cells have the default rate, which was
the best on the pool of the real other site (docs/evidence/adaptation).
"""

ADAPTED_BACKBONE_LR = 3e-4
"""Rate of `adapt` for a backbone or decoder: the best on the pool (docs/evidence/adaptation)."""


@dataclass(frozen=True, init=False)
class Settings:
    """The settings of a run; docs/method/deviations.md has where defaults differ from the papers'.

    Args:
        values: flat keys and values. Keys left out, or those of the stability test that are None,
            get the value of their preset or their default.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its range, or values that
            exclude each other; the message names the key, the value and what is allowed.
    """

    cell: CellConfig
    schedule: SearchSchedule
    stability: StabilityTest
    optimisation: Optimisation
    data: DataConfig
    written: Mapping[str, Any] = field(compare=False)
    """The values that were given, by their present names."""
    deprecations: tuple[str, ...] = field(compare=False)
    """A sentence for each given key whose name is old or that has no effect any more."""

    def __init__(self, **values: Any) -> None:
        written, deprecations = present_names(values)
        object.__setattr__(self, "written", written)
        object.__setattr__(self, "deprecations", deprecations)
        for name, part in _resolved_parts(written).items():
            object.__setattr__(self, name, part)

    def replace(self, **changes: Any) -> "Settings":
        """Return the settings with some values changed; presets are resolved again."""
        return Settings(**{**self.written, **changes})

    def to_mapping(self) -> dict[str, Any]:
        """Return all settings as flat, JSON-ready values."""
        values: dict[str, Any] = {}
        for name in PARTS:
            values |= dataclasses.asdict(getattr(self, name))
        values["architecture_betas"] = list(self.optimisation.architecture_betas)
        return values

    @classmethod
    def from_mapping(cls, values: Any) -> "Settings":
        """Return the settings of a plans file's `iac` section, or raise a `ValueError`."""
        if not isinstance(values, Mapping):
            raise ValueError(
                f"settings must be a JSON object of keys and values; got {values!r}: write {{}} "
                "for all defaults"
            )
        for key in values:
            _require_known(key)
        return cls(**values)

    @property
    def can_wait(self) -> bool:
        """Whether a stability check can fail, so that a pruning search may run to its limit.

        The Jensen-Shannon divergence is at most ln 2, so no threshold above that is ever missed,
        unless `raw-strict` takes an undefined one for unstable.
        """
        strict = self.cell.importance == "raw-strict"
        return strict or self.stability.stability_threshold <= math.log(2)

    @property
    def soonest_end(self) -> int:
        """Epochs after which a pruning search ends at the soonest, warm-up included."""
        return self.schedule.warmup_epochs + PRUNES_PER_EDGE * self.stability.patience

    @property
    def latest_end(self) -> int:
        """Epochs after which a pruning search has ended in any case, warm-up included."""
        limit = self.schedule.search_epochs
        return limit if self.can_wait else min(self.soonest_end, limit)

    def require_prunable(self) -> None:
        """Raise a `ValueError` if a pruning search has fewer epochs than six prunes need."""
        warmup, limit = self.schedule.warmup_epochs, self.schedule.search_epochs
        if limit < self.soonest_end:
            raise ValueError(
                f"a search must have at least {self.soonest_end - warmup} epochs after its warm-up,"
                f" {PRUNES_PER_EDGE} x patience, to prune {PRUNES_PER_EDGE} operations from every "
                f"edge; search_epochs={limit} with warmup_epochs={warmup} leaves {limit - warmup}: "
                f"set search_epochs to {self.soonest_end} or more"
            )


PARTS: Mapping[str, type[CheckedPart]] = {
    "schedule": SearchSchedule,
    "stability": StabilityTest,
    "cell": CellConfig,
    "optimisation": Optimisation,
    "data": DataConfig,
}


def keys() -> tuple[str, ...]:
    """Return the flat keys of all settings."""
    return tuple(_key_types())


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Return key and typed value of a command line's `key=value`; old keys are kept."""
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ValueError(f"a setting must have the form key=value; got {assignment!r}")
    _require_known(key)
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except (ValueError, RecursionError):
        value = text
    if key in REMOVED or key == FORMER_SETTING:
        return key, value
    annotation = _key_types()[RENAMED.get(key, key)]
    if is_text(annotation):
        return key, converted(key, None if text == "null" else text, annotation)
    if value is None and RENAMED.get(key, key) in _DECIDED_BY_PRESETS:
        return key, None
    return key, converted(key, value, annotation)


_DECIDED_BY_PRESETS = tuple(f.name for f in dataclasses.fields(StabilityTest))


def _resolved_parts(written: Mapping[str, Any]) -> dict[str, CheckedPart]:
    """Return the parts of written values, after presets filled in theirs."""
    given = {k: v for k, v in written.items() if v is not None or k not in _DECIDED_BY_PRESETS}
    preset = given.get("preset", SearchSchedule.preset)
    # It need not be text yet; its part checks that.
    brought = PRESETS.get(preset, {}) if isinstance(preset, str) else {}

    def part(kind: type[CheckedPart], defaults: Mapping[str, Any]) -> Any:
        names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return kind(**{k: v for k, v in {**defaults, **given}.items() if k in names})

    schedule, optimisation = part(SearchSchedule, brought), part(Optimisation, brought)
    defaults = dict(brought)
    if schedule.preset == "adaptive":
        # Logits move by up to lr per step, and JS grows with the square of a small move.
        moved = optimisation.architecture_lr * schedule.iterations_per_epoch
        defaults["stability_threshold"] = 3e-4 * moved**2
    return {
        "cell": part(CellConfig, {}),
        "schedule": schedule,
        "stability": part(StabilityTest, defaults),
        "optimisation": optimisation,
        "data": part(DataConfig, {}),
    }


def present_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return values by the names of today, and a sentence for each that had another."""
    found: dict[str, Any] = {}
    notes = []
    for key, value in values.items():
        _require_known(key)
        if key == FORMER_SETTING or (key, value) == ("stability_test", "schedule"):
            continue
        if key in REMOVED:
            left = REMOVED[key]
            if left is not None and value not in left:
                raise ValueError(
                    f"{key}={value!r} was removed, since no measurement supported it; only "
                    f"{left[0]!r} is left: leave {key} out"
                )
            notes.append(f"the setting {key} has no effect any more: leave it out")
            continue
        name = RENAMED.get(key, key)
        if name != key:
            notes.append(f"the setting {key} is deprecated: write {name}")
            if name in values:
                raise ValueError(f"{key} is the old name of {name}; got both: leave out {key}")
        found[name] = value
    if values.get("stability_test") == "schedule":
        found["stability_threshold"] = 1.0  # No divergence reaches it.
        notes.append("the setting stability_test is deprecated: write stability_threshold=1.0")
    if FORMER_SETTING in values:
        notes.append(_take_over_norms(values[FORMER_SETTING], found))
    return found, tuple(notes)


def _take_over_norms(value: Any, found: dict[str, Any]) -> str:
    """Write the former setting's value as `trainable_part` into `found`; return what to log.

    Records of that time contain both, with the default `network`, which no retrofit used.
    """
    if value not in list(FORMER_NORMS):
        allowed = ", ".join(FORMER_NORMS)
        raise ValueError(f"setting {FORMER_SETTING!r} must be one of {allowed}; got {value!r}")
    if found.get("trainable_part") == "network":
        del found["trainable_part"]
    part = FORMER_NORMS[value]
    if part is None:
        return f"the setting {FORMER_SETTING} has no effect any more: leave it out"
    if (other := found.setdefault("trainable_part", part)) != part:
        raise ValueError(
            f"{FORMER_SETTING}={value} is the old form of trainable_part={part}; got "
            f"trainable_part={other} as well: leave one of them out"
        )
    return f"the setting {FORMER_SETTING} is deprecated: write trainable_part={part}"


@functools.cache
def _key_types() -> dict[str, Any]:
    types = map(typing.get_type_hints, PARTS.values())
    return {key: kind for part in types for key, kind in part.items()}


def _require_known(key: Any) -> None:
    known = _key_types()
    if key not in {*known, *RENAMED, *REMOVED, FORMER_SETTING}:
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown setting {key!r}; {hint}allowed are {', '.join(known)}")
