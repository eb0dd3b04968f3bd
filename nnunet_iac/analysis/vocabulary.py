"""Names, in pages and tables, of the methods that cells are compared with."""

from nnunet_iac.search.controls import OF_RETENTION

BACKBONE = "the backbone"
REFERENCE = "reference"
"""The backbone among the methods of a study."""

SEARCHING_METHODS = ("IAC-LTH", "IAC")
"""The methods that search for a cell, by their name in records."""

RANDOM_CELL = "random cell"
"""The method of the control that shows whether a gain comes from the search."""

_CONTINUED = {
    "continued": "the continued backbone",
    "continued decoder": "the backbone with a continued decoder",
    "continued norms": "the backbone with continued norms",
}

TRAINS_BACKBONE = {
    f"{method}{retention}": f"{name}{retention}"
    for method, name in _CONTINUED.items()
    for retention in OF_RETENTION.values()
}
"""Controls that train what retrofits freeze."""

_RETROFITS = {
    RANDOM_CELL: "a random cell",
    "identity cell": "an all-identity cell",
    "convolution": "a convolution of equal parameters",
    "attention gates": "attention gates",
    "nested skips": "nested skips (U-Net++)",
    "residual attention": "residual attention",
}

BASELINES = TRAINS_BACKBONE | {
    f"{method}{retention}": f"{name}{retention}"
    for method, name in _RETROFITS.items()
    for retention in ("", OF_RETENTION["rehearsal"], OF_RETENTION["lwf"])
}
"""Methods with which a searched cell is compared at equal budget, by their name in records."""

STUDY_BASELINES = {"random": BASELINES[RANDOM_CELL], "continued": BASELINES["continued"]}
"""The baselines whose comparisons a study's page states first, by their name in studies."""


def shown_name(method: str) -> str:
    """Return what tables and figures call a method of a study."""
    return "backbone" if method == REFERENCE else method
