"""Comparisons of predictions of which one side was made with more mirroring than the other."""

from nnunet_iac.analysis.scores.case_scores import CaseScores

NOT_ALIKE = "Not alike:"
"""First words of the sentence."""


def mixed_mirroring(a: CaseScores, b: CaseScores) -> tuple[str, ...]:
    """Return a sentence if two methods are known to be predicted with other mirroring, else none.

    nnU-Net averages the predictions of mirrored images, which by itself changes the Dice.
    """
    known = {
        side.label: sorted({s.mirroring for s in side.sources if s.mirroring is not None})
        for side in (a, b)
    }
    if len({axes for found in known.values() for axes in found}) < 2 or not all(known.values()):
        return ()
    texts = (f"{label} {' or '.join(map(_text, found))}" for label, found in known.items())
    return (
        f"{NOT_ALIKE} the images were predicted by {' and by '.join(texts)}, so a part of the "
        "difference is that of mirroring; compare a run with its iac/reference, and predict others "
        "with --disable_tta.",
    )


def _text(axes: tuple[int, ...]) -> str:
    return f"with mirroring along {', '.join(map(str, axes))}" if axes else "without mirroring"
