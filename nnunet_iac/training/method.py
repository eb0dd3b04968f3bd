"""The methods of the trainers: what each does, and what records call a run of it."""

from dataclasses import dataclass
from typing import get_args

from nnunet_iac.search.controls import (
    OF_KIND,
    OF_RETENTION,
    OF_SKIP,
    OF_TRAINED_PART,
    CellSource,
)
from nnunet_iac.search.setting_parts import (
    BACKBONE_PARTS,
    BackbonePart,
    CellConfig,
    ControlPart,
    Optimisation,
    RetentionName,
    RetrofitPart,
    TrainablePart,
)


@dataclass(frozen=True)
class Method:
    """One way to train a network that starts from a backbone.

    A search that prunes removes operations until one is left per edge; weights and architecture of
    a bilevel one learn from different halves of the patients. One that retrofits freezes the
    backbone.
    """

    name: str
    searches: bool = False
    bilevel: bool = False
    retrofits: bool = True

    @property
    def prunes(self) -> bool:
        """Whether the search prunes; its finetuning starts from the tensors the search had first.

        Those are the lottery ticket.
        """
        return self.searches and not self.bilevel

    @property
    def parts(self) -> tuple[TrainablePart, ...]:
        """Allowed values of `trainable_part`; the first is the default."""
        return get_args(RetrofitPart if self.retrofits else ControlPart)

    def retention(self, rates: Optimisation) -> RetentionName:
        """Return how a run with these settings forgets less of its source.

        A frozen backbone leaves rehearsal to choose, which needs batches that are not halves, and
        LwF, which is part of the loss of a finetuning and not of a search.
        """
        kept = {"rehearsal": not self.bilevel, "lwf": not self.searches}
        taken = not self.retrofits or kept.get(rates.retention, False)
        return rates.retention if taken else "none"

    def trained_part(self, cell: CellConfig) -> TrainablePart:
        """Return what a run with these settings trains."""
        return cell.trainable_part or self.parts[0]

    def trained_backbone(self, cell: CellConfig) -> BackbonePart:
        """Return what a run trains of its backbone's own tensors."""
        return BACKBONE_PARTS[self.trained_part(cell)]


IAC_LTH = Method("IAC-LTH", searches=True)
IAC = Method("IAC", searches=True, bilevel=True)
IAC_DISCRETE = Method("IAC-Discrete")
CONTINUE = Method("continued", retrofits=False)


def method_name(method: Method, cell: CellConfig, retention: RetentionName = "none") -> str:
    """Return what records call a run of a method with these settings."""
    if method.searches:
        return method.name
    name = method.name
    if not method.retrofits:
        name = OF_TRAINED_PART[method.trained_part(cell)]
    elif cell.skip != "cell":
        name = OF_SKIP[cell.skip]
    elif cell.genotype is not None:
        name = OF_KIND.get(CellSource.of(cell.genotype).kind, name)
    return name + OF_RETENTION[retention]
