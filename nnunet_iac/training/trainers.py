"""The trainers of this package, each a method and a sentence."""

from nnunet_iac.runs.folder import path_for_fold, record_beside
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

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if an epoch has no batch for the architecture."""
        if settings.iterations_per_epoch < 2:
            raise ValueError(
                "the full search needs iterations_per_epoch >= 2, one batch for the weights and "
                f"one for the architecture; got {settings.iterations_per_epoch}"
            )


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
        path = path_for_fold(str(self.settings.genotype), self.fold)
        genotype = find_genotype(path)
        record = record_beside(path)
        source = {} if record is None else record.read_cost().run
        here = (self.plans_manager.dataset_name, self.fold)
        if source.get("dataset") == here[0] and source.get("fold") != here[1] and here[1] != "all":
            self.genotype_leakage = f"{path} was searched on fold {source['fold']}"
            if not self.settings.allow_leakage:
                raise ValueError(
                    "the cell must not have been searched on this fold's validation cases; "
                    f"{self.genotype_leakage} and this is fold {self.fold}: put {{fold}} in the "
                    "path, or set allow_leakage=true, which every record then shows"
                )
            self.print_to_log_file(f"WARNING: {self.genotype_leakage}")
        return genotype
