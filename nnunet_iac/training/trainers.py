"""The trainers of this package, each a method and a sentence."""

from typing import Any

from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.nn.zero_cost import zero_cost_genotype
from nnunet_iac.runs.folder import path_for_fold
from nnunet_iac.runs.genotype_source import find_genotype
from nnunet_iac.search.budget import is_within, require_within
from nnunet_iac.search.controls import CellSource, identity_genotype, random_genotypes
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.iac_trainer import IACTrainer
from nnunet_iac.training.loaders import SeededLoader
from nnunet_iac.training.methods import IAC, IAC_DISCRETE, IAC_LTH, Method, finetuning_only
from nnunet_iac.training.retrofit_trainer import STREAMS
from nnunet_iac.training.transfer import Origin


class nnUNetTrainerIACLTH(IACTrainer):
    """Accelerated search: warm-up, pruning search that stops by itself, finetuning.

    Deviates from nnUNetTrainer as `IACTrainer` says; finetuning starts from the lottery ticket.
    """

    method = IAC_LTH

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if the search is too short to prune six operations."""
        super().check_settings(settings)
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
        super().check_settings(settings)
        if settings.iterations_per_epoch < 2:
            raise ValueError(
                "the full search needs iterations_per_epoch >= 2, one batch for the weights and "
                f"one for the architecture; got {settings.iterations_per_epoch}"
            )


class nnUNetTrainerIACDiscrete(IACTrainer):
    """Finetuning only: of a genotype, or of another skip module or control, as the settings say.

    Deviates from nnUNetTrainer as `IACTrainer` says; there is no search.
    """

    method = IAC_DISCRETE

    @classmethod
    def method_of(cls, settings: Settings) -> Method:
        """Return what records call a run with these settings: after what it implants."""
        return finetuning_only(settings)

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if the settings name nothing to put into the skip connections."""
        if settings.genotype is None and settings.skip == "cell":
            raise ValueError(
                "nnUNetTrainerIACDiscrete needs the setting genotype, a JSON file or another "
                "run's fold folder, or random:SEED, zero-cost:SEED, identity or conv, or the "
                "setting skip; make plans that name it with nnunet-iac plan … --set genotype=PATH"
            )

    def start_run(self) -> None:
        """Give a convolution its width, then begin as all retrofits do."""
        source = self._source
        if source is not None and source.kind == "convolution" and source.path is not None:
            self.unet.match(self._genotype_at(source.path))
        super().start_run()

    def given_genotype(self) -> Genotype | None:
        """Return the genotype of the settings; None where they ask for another module.

        Under a budget a random cell is the first drawn that is within it.

        Raises:
            ValueError: no valid genotype, one beyond the budget, or one that was searched on
                another fold, whose training cases are this fold's validation cases.
        """
        source = self._source
        if source is None or source.kind in ("convolution", "zero-cost"):
            return None
        costs = self.phases.costs
        if source.kind == "random":
            drawn = random_genotypes(source.seed)
            return next(g for g in drawn if costs is None or is_within(g, costs, self.settings))
        given = source.kind == "identity"
        genotype = identity_genotype() if given else self._genotype_at(str(source.path))
        if costs is not None:
            require_within(genotype, costs, self.settings)
        return genotype

    def scored_genotype(self) -> Genotype | None:
        """Return the genotype of `genotype=zero-cost:SEED`, from `score_batches` training batches.

        Raises:
            ValueError: batches of one image, images that do not differ, or a genotype beyond the
                budget.
        """
        source = self._source
        if source is None or source.kind != "zero-cost":
            return None
        load_ticket(self.unet, draw_ticket(self.unet, self.settings.seed))
        entropy = [self.settings.seed, STREAMS.index("train"), 0]
        loader = SeededLoader(self.stock_loaders()[0], entropy, first=0, workers=0)
        batches = [next(loader)["data"].to(self.device) for _ in range(self.settings.score_batches)]
        genotype = zero_cost_genotype(self.unet, batches, source.seed)
        if self.phases.costs is not None:
            require_within(genotype, self.phases.costs, self.settings)
        return genotype

    @property
    def _source(self) -> CellSource | None:
        genotype = self.settings.genotype
        return None if genotype is None else CellSource.of(genotype)

    def described_run(self) -> dict[str, Any]:
        """Return what the record tells of which run this is, and where its cell comes from."""
        described = super().described_run()
        source = self._source
        if source is None or source.path is None:
            return described
        origin = Origin.of(path_for_fold(source.path, self.fold))
        return {**described, "genotype_from": origin.described()}

    def _genotype_at(self, place: str) -> Genotype:
        path = path_for_fold(place, self.fold)
        genotype = find_genotype(path)
        origin = Origin.of(path)
        origin.require_dimensions(len(self.configuration_manager.patch_size))
        if (unknown := origin.unknown()) is not None:
            self.print_to_log_file(f"WARNING: {unknown}")
        dataset, (_, validation) = self.plans_manager.dataset_name, self.do_split()
        self.genotype_leakage = origin.leakage(
            dataset, self.fold, validation, self.settings.patient_pattern
        )
        if self.genotype_leakage is None:
            return genotype
        if origin.run.get("dataset") == dataset and not self.settings.allow_leakage:
            raise ValueError(
                "the cell must not have been searched on this fold's validation cases; "
                f"{self.genotype_leakage} and this is fold {self.fold}: put {{fold}} in the "
                "path, or set allow_leakage=true, which every record then shows"
            )
        self.print_to_log_file(f"WARNING: {self.genotype_leakage}")
        return genotype
