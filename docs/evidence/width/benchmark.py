"""Time the scoring of ten widths of the Hippocampus plan, into benchmark.json.

    python docs/evidence/width/benchmark.py OUT.json [IMAGES [SEEDS]]

Needs the data set 4 preprocessed by nnU-Net for its 2d configuration.
"""

import sys
import time
from pathlib import Path

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.training.provenance import circumstances
from nnunet_iac.width.source import Source
from nnunet_iac.width.study import choose_width

CAPS = (256, 192, 128, 64, 32, 16, 8, 4, 2, 1)


def seconds(source: Source, images: int, seeds: int) -> float:
    """Return the time of a whole choice."""
    started = time.perf_counter()
    choose_width(source, images=images, seeds=range(seeds), caps=CAPS)
    return time.perf_counter() - started


def main() -> None:
    """Time the whole, and with one image and one seed for what each of them costs."""
    path = Path(sys.argv[1])
    images, seeds = (int(word) for word in (*sys.argv[2:], "8", "8")[:2])
    source = Source.of_plans("4", "2d", "nnUNetPlans", "nnUNetTrainer")
    seconds(source, 1, 1)
    whole = seconds(source, images, seeds)
    write_json(
        path,
        {
            **circumstances(),
            "caps": CAPS,
            "images": images,
            "seeds": seeds,
            "seconds": whole,
            "per_image": (whole - seconds(source, 1, seeds)) / (images - 1),
            "per_seed": (whole - seconds(source, images, 1)) / (seeds - 1),
        },
    )


if __name__ == "__main__":
    main()
