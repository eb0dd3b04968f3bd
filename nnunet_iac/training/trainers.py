"""The trainers of this package, each a method and a sentence."""

from pathlib import Path
from typing import Any

from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.genotype_source import find_genotype
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.iac_trainer import IACTrainer
from nnunet_iac.training.methods import IAC, IAC_DISCRETE, IAC_LTH


class nnUNetTrainerIACLTH(IACTrainer):
    """Accelerated search: warm-up, pruning search that stops by itself, finetuning.

    Deviates from nnUNetTrainer as `IACTrainer` says; finetuning starts from the lottery ticket.
    """

    method = IAC_LTH

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if the search is too short to prune six operations."""
        settings.require_prunable()


class nnUNetTrainerIAC(IACTrainer):
    """Full search of `search_epochs` epochs on patient-wise halves, then finetuning.

    Deviates from nnUNetTrainer as `IACTrainer` says; weights and architecture learn from
    alternating batches of the two halves, and finetuning starts from fresh weights.
    """

    method = IAC


class nnUNetTrainerIACDiscrete(IACTrainer):
    """Finetuning only, of the genotype that the settings name.

    Deviates from nnUNetTrainer as `IACTrainer` says; there is no search.
    """

    method = IAC_DISCRETE

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if the settings name no genotype."""
        if settings.genotype is None:
            raise ValueError(
                "nnUNetTrainerIACDiscrete needs the setting genotype, a JSON file or another "
                "run's fold folder; make plans that name it with nnunet-iac plan … --set "
                "genotype=PATH"
            )

    def given_genotype(self) -> Genotype:
        """Return the genotype of the settings.

        Raises:
            ValueError: no valid genotype, or one that was searched on another fold, whose
                training cases are this fold's validation cases.
        """
        path = Path(str(self.settings.genotype).replace("{fold}", str(self.fold))).expanduser()
        genotype = find_genotype(path)
        source = _source_run(path)
        here = (self.plans_manager.dataset_name, self.fold)
        if source.get("dataset") == here[0] and source.get("fold") != here[1] and here[1] != "all":
            message = (
                f"the cell must not have been searched on this fold's validation cases; {path} "
                f"was searched on fold {source['fold']} and this is fold {self.fold}"
            )
            if not self.settings.allow_leakage:
                raise ValueError(f"{message}: put {{fold}} in the path, or set allow_leakage=true")
            self.print_to_log_file(f"WARNING: {message}")
        return genotype


def _source_run(genotype: Path) -> dict[str, Any]:
    """Return which run found a genotype, where its record lies beside it; else nothing."""
    for folder in (genotype / FOLDER_NAME, genotype, genotype.parent):
        cost_file = RunFolder(folder).cost_file
        if cost_file.is_file():
            return RunFolder(folder).read_cost().run
    return {}
