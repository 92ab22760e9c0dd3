"""What tune tells an operator instead of a traceback."""


class TuneError(Exception):
    """It cannot go on; the text says why and what to do. Exit 1."""
