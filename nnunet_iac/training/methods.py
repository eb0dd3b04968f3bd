"""What distinguishes the searches, in one row each."""

from dataclasses import dataclass


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

CONTINUED = "continued"
"""What records call the control, which has no cells: the backbone, simply trained on."""
