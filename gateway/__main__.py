"""`python -m gateway`: the supervisor and its processes; `--process N` is one of them."""

import argparse
import sys


def main() -> int:
    """Parse the command line and run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Serve Herald's clients over WebSocket.")
    parser.add_argument("--process", type=int, metavar="N", help="run as process N (the supervisor does this)")
    arguments = parser.parse_args()
    # Imported here: the metrics choose their mode at import, from the environment the supervisor prepares.
    if arguments.process is not None:
        from gateway import process

        return process.main(arguments.process)
    from gateway import supervisor

    return supervisor.main()


if __name__ == "__main__":
    sys.exit(main())
