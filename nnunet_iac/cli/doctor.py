"""Check the installation."""

import argparse

from nnunet_iac.cli.shared import Verbs


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("doctor", help="check the installation; 1 if anything failed")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.host.doctor import all_checks

    failed = 0
    for check in all_checks():
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}", flush=True)
        if not check.ok:
            failed += 1
            print(f"      mend: {check.mend}", flush=True)
    print(f"{failed} failed" if failed else "all well")
    return 1 if failed else 0
