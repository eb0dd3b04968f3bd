"""nnUNetv2_train with a given number of threads on the CPU instead of one per core.

    python -m nnunet_iac.host.nnunet_train THREADS ARGUMENTS...

nnU-Net gives torch a thread per core of the machine, for which trainings side by side would fight.
"""

import multiprocessing
import sys


def main() -> None:
    """Train."""
    threads = int(sys.argv.pop(1))
    multiprocessing.cpu_count = lambda: threads
    from nnunetv2.run.run_training import run_training_entry

    run_training_entry()


if __name__ == "__main__":
    main()
