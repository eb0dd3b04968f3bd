"""Write plans of small patches for studies in three dimensions.

    bash docs/evidence/search/small3d.sh

Needs the plans nnUNetPlans and nnUNetResEncUNetMPlans of the data set 4.
"""

from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import write_new
from nnunet_iac.runs.atomic import read_json

PLANS = {"nnUNetPlans": "small3d", "nnUNetResEncUNetMPlans": "smallres3d"}
PATCH = [24, 32, 24]


def main() -> None:
    """Write plans beside those they are made from."""
    folder = preprocessed_folder("4")
    for source, name in PLANS.items():
        plans = read_json(folder / f"{source}.json")
        plans.update(plans_name=name, source_plans=source)
        plans["configurations"]["3d_fullres"].update(patch_size=PATCH, batch_size=2)
        write_new(folder / f"{name}.json", plans)


if __name__ == "__main__":
    main()
