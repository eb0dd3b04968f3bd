"""What distinguishes the searches, in one row each."""

from dataclasses import dataclass, replace

from nnunet_iac.search.controls import OF_KIND, OF_SKIP, CellSource
from nnunet_iac.search.settings import Settings


@dataclass(frozen=True)
class Method:
    """One way to come to a finetuned cell.

    Args:
        name: as records and documents call it.
        searches: whether there is a search stage at all.
        prunes: whether the search removes operations until one is left per edge.
        bilevel: whether weights and architecture learn from different halves of the patients.
        ticket: whether finetuning starts from the tensors the search started from.
    """

    name: str
    searches: bool
    prunes: bool
    bilevel: bool
    ticket: bool


IAC_LTH = Method("IAC-LTH", searches=True, prunes=True, bilevel=False, ticket=True)
IAC = Method("IAC", searches=True, prunes=False, bilevel=True, ticket=False)
IAC_DISCRETE = Method("IAC-Discrete", searches=False, prunes=False, bilevel=False, ticket=False)


def finetuning_only(settings: Settings) -> Method:
    """Return the method of a run that does not search, called after what it implants."""
    if settings.skip != "cell":
        return replace(IAC_DISCRETE, name=OF_SKIP[settings.skip])
    assert settings.genotype is not None
    kind = CellSource.of(settings.genotype).kind
    return replace(IAC_DISCRETE, name=OF_KIND.get(kind, IAC_DISCRETE.name))


def without_use(method: Method, settings: Settings) -> tuple[str, ...]:
    """Return the settings of a search that a method has no use for."""
    source = None if settings.genotype is None else CellSource.of(settings.genotype)
    asks = method.prunes and settings.stability_test != "schedule"
    removes = method.prunes and settings.pruning_score == "perturbation"
    used = {
        "beta_decay": method.searches,
        "pruning_score": method.prunes,
        "stability_test": method.prunes,
        "stable_checks": method.prunes,
        "theta": asks,
        "kappa": asks,
        "reset_theta": asks,
        "held_back": removes,
        "score_batches": removes or (source is not None and source.kind == "zero-cost"),
    }
    return tuple(name for name, useful in used.items() if not useful)
