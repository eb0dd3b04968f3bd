"""Check the installation, and name the folder for nnUNet_extTrainer."""

import argparse

from nnunet_iac.cli.options import Verbs, add_verb


def add_doctor(verbs: Verbs) -> None:
    """Add the verb doctor."""
    add_verb(
        verbs,
        "doctor",
        "check the installation, and print how to fix what fails",
        "Checks versions, folders, free disk, the device, and that nnU-Net finds the trainers. The "
        "exit status is 1 if a check fails.",
        run=_doctor,
        examples="nnunet-iac doctor",
    )


def add_trainers_dir(verbs: Verbs) -> None:
    """Add the verb trainers-dir."""
    parser = add_verb(
        verbs,
        "trainers-dir",
        "print the folder of the trainers, for nnUNet_extTrainer",
        "nnU-Net looks for trainers in the folders that nnUNet_extTrainer lists.",
        run=_trainers_dir,
        examples='eval "$(nnunet-iac trainers-dir --export)"',
    )
    text = "print the shell command that adds the folder to those in nnUNet_extTrainer"
    parser.add_argument("--export", action="store_true", help=text)


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
    from nnunet_iac.host.trainer_lookup import export_line, listed_folders, trainers_dir

    print(export_line(listed_folders()) if arguments.export else trainers_dir())
    return 0
