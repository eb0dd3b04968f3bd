"""Check the installation, and name the folder for nnUNet_extTrainer."""

import argparse

from nnunet_iac.cli.shared import Verbs


def add_doctor(verbs: Verbs) -> None:
    """Add the verb doctor."""
    parser = verbs.add_parser("doctor", help="check the installation; 1 if anything failed")
    parser.set_defaults(verb=_doctor)


def add_trainers_dir(verbs: Verbs) -> None:
    """Add the verb trainers-dir."""
    parser = verbs.add_parser("trainers-dir", help="print the folder for nnUNet_extTrainer")
    parser.set_defaults(verb=_trainers_dir)


def _doctor(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.doctor import all_checks

    failed = 0
    for check in all_checks():
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}", flush=True)
        if not check.ok:
            failed += 1
            print(f"      fix: {check.fix}", flush=True)
    print(f"{failed} failed" if failed else "all well")
    return 1 if failed else 0


def _trainers_dir(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.trainer_lookup import trainers_dir

    print(trainers_dir())
    return 0
