"""How often `--adapter auto` is right, for numbers of cases and for other ways to measure distance.

What the choice looks at was decided on the rest of the pool and on training cases of the source,
described by the other half of the patients. The way that was taken is then counted on the target's
test cases and on the source's validation cases, for the draws of all studies.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from studies import CASES, DRAWS, Pair, draw

from nnunet_iac.adaptation.choice import NO_ADAPTER, choose, distance, statistics
from nnunet_iac.adaptation.sites import SITE, backbone_network, described, looked_at
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import configuration_of, read_plans
from nnunet_iac.host.preprocessed import preprocessed_dataset
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.search.patients import patient_of

STAGES = ("all", "the last")
"""Stages of the encoder whose features are looked at."""

NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the squared error of a site's mean that are taken off."""

TRIALS = 60
"""Draws for each number of cases on which ways are compared."""

Statistics = Mapping[str, torch.Tensor]


def statistics_of(data: Path, cases: Sequence[str], checkpoint: Mapping[str, Any]) -> Statistics:
    """Return the statistics of preprocessed cases by a model."""
    init = checkpoint["init_args"]
    encoder = backbone_network(init, checkpoint["network_weights"], "cpu").encoder
    patch = configuration_of(init["plans"], init["configuration"])["patch_size"]
    dataset = preprocessed_dataset(data, cases)
    images = {case: torch.from_numpy(dataset.load_case(case)[0][:]) for case in cases}
    return {case: statistics(encoder, image, patch) for case, image in images.items()}


def compared(pool: Statistics, train: Statistics, pattern: str | None, last: int) -> list[Any]:
    """Return how often each way is right; `last` features are those of the last stage."""
    patients = sorted({patient_of(case, pattern) for case in train})
    found = []
    for stages, noise, k in product(STAGES, NOISES, (k for k in CASES if k < len(pool))):
        kept = slice(None) if stages == STAGES[0] else slice(-last, None)
        right: dict[str, list[bool]] = {SITE: [], NO_ADAPTER: []}
        for trial in range(TRIALS):
            drawn = draw(sorted(pool), k, DRAWS + trial)
            half = {*np.random.default_rng(trial).permutation(patients)[: len(patients) // 2]}
            known = [case for case in train if patient_of(case, pattern) in half]
            ours = [pool[case][kept] for case in drawn]
            source = [train[case][kept] for case in looked_at(known)]
            spread = torch.stack(source).std(0).clamp_min(1e-6)
            means = [(torch.stack(each).mean(0), len(each)) for each in (ours, source)]
            sides = {
                SITE: [s for case, s in pool.items() if case not in drawn],
                NO_ADAPTER: [s for case, s in train.items() if case not in known],
            }
            for site, cases in sides.items():
                for case in (s[kept] for s in cases):
                    to = [distance(case, *mean, spread, noise) for mean in means]
                    right[site].append((to[0] < to[1]) == (site == SITE))
        shares = {site: fmean(each) for site, each in right.items()}
        found.append({"stages": stages, "noise": noise, "cases": k, "right": shares})
    return found


def counted(target: Statistics, source: Statistics, splits: Any, split: Any) -> dict[str, Any]:
    """Return, by number of cases and site, how many held-out cases got which adapter."""
    found: dict[str, Any] = {}
    for number, (k, _) in enumerate(product(CASES, range(DRAWS))):
        ours = [target[case] for case in splits[number]["train"]]
        sites, spread = described(ours, [source[case] for case in looked_at(split["train"])])
        held_out = {
            SITE: [target[case] for case in splits[number]["val"]],
            NO_ADAPTER: [source[case] for case in split["val"]],
        }
        sides = found.setdefault(str(k), {site: [0, 0] for site in held_out})
        for site, cases in held_out.items():
            sides[site][0] += sum(choose(case, sites, spread).name == site for case in cases)
            sides[site][1] += len(cases)
    return found


def measure_choice(pair: Pair, plans: str, splits: Any) -> dict[str, Any]:
    """Return what is measured of the choice; the target must be prepared under `plans`."""
    checkpoint = read_checkpoint(pair.source_folds[0] / FINAL)
    init, target = checkpoint["init_args"], preprocessed_folder(pair.target)
    folder = preprocessed_folder(init["plans"]["dataset_name"])
    split = read_json(folder / "splits_final.json")[0]
    config = configuration_of(init["plans"], init["configuration"])
    moved = configuration_of(read_plans(target / f"{plans}.json"), init["configuration"])
    cases = [case for side in split.values() for case in side]
    source = statistics_of(folder / config["data_identifier"], cases, checkpoint)
    test = splits[0]["val"]
    pool = sorted({case for each in splits for side in each.values() for case in side} - {*test})
    ours = statistics_of(target / moved["data_identifier"], [*pool, *test], checkpoint)
    last = 2 * config["architecture"]["arch_kwargs"]["features_per_stage"][-1]
    (dataset,) = pair.source.datasets
    train = {case: source[case] for case in split["train"]}
    return {
        "compared": compared({c: ours[c] for c in pool}, train, dataset.patients, last),
        "held_out": counted(ours, source, splits, split),
    }
