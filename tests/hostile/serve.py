"""A gateway process, some of its limits replaced first: `python -m tests.hostile.serve HEARTBEAT_MS=1000 ...`."""

import sys

from notification import limits


def main(replaced: list[str]) -> int:
    """Replace, then serve; the exit status."""
    for text in replaced:
        name, _, value = text.partition("=")
        assert isinstance(getattr(limits, name), int), name
        setattr(limits, name, int(value))
    # Imported here: every module reads its limits once.
    from gateway import process

    return process.main(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
