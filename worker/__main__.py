"""`python -m worker ROLE...`: worker roles in one process."""

import sys

from notification.errors import HeraldError
from notification.settings import load
from worker.process import ROLES, run

USAGE = f"usage: python -m worker ROLE...   (roles: {', '.join(ROLES)}; docs/operations.md)"


def main(arguments: list[str]) -> int:
    """0 after a graceful stop, 1 with one line on stderr when it cannot start or go on, 2 for wrong usage."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    unknown = [role for role in arguments if role not in ROLES]
    if unknown or not arguments:
        said = f"unknown role {unknown[0]!r}" if unknown else "no role given"
        print(f"worker: {said}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        settings, _sources = load()
        run(settings, tuple(dict.fromkeys(arguments)))
    except HeraldError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
