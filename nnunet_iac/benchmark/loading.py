"""nnU-Net's loading and augmentation of batches."""

from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.planning import preprocess_command, preprocessed_folder
from nnunet_iac.host.plans import configuration_of, read_dataset, read_plans
from nnunet_iac.host.preprocessed import preprocessed_cases
from nnunet_iac.host.stock_trainer import stock_trainer


def loading_seconds(dataset: str, configuration: str, plans: str, batches: int) -> float:
    """Return the median seconds that one worker of nnU-Net takes for a training batch of plans."""
    folder = preprocessed_folder(dataset)
    content = read_plans(folder / f"{plans}.json")
    config = configuration_of(content, configuration)
    if config.get("previous_stage") is not None:
        raise ValueError(
            "the hours of a cascade's second stage are not estimated, since its batches need what "
            f"the first has predicted; {configuration} is one: time its steps with benchmark step"
        )
    if not preprocessed_cases(folder / config["data_identifier"]):
        raise FileNotFoundError(
            f"preprocessed data must exist in {folder / config['data_identifier']}; run\n"
            f"  {preprocess_command(folder.name, plans, configuration)}"
        )
    description = read_dataset(folder / "dataset.json")
    with stock_trainer(content, configuration, description, workers=0) as trainer:
        training, _ = trainer.get_dataloaders()  # Without workers, which would need an end.
        return interleaved({"loading": lambda: next(training)}, batches, "cpu")["loading"]
