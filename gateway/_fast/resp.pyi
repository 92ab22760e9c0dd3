"""RESP 2 and 3, the wire of Redis and Valkey: commands into bytes, bytes into replies. Sans-I/O, keeps nothing."""

from typing import Any

# Hash slots of a cluster.
SLOTS_COUNT: int

class ProtocolError(Exception):
    """The server sent what is no reply, or one beyond the bounds; the text says what, and nothing of the bytes."""

class Refusal:
    """An error reply; equal to another of the same text."""

    text: str
    def __init__(self, text: str) -> None: ...
    @property
    def code(self) -> str:
        """The first word: MOVED, READONLY, ERR. The rest may quote the command: it is for no log."""

def pack(command: tuple[str | bytes | int, ...]) -> bytes:
    """The bytes of a command: an array of bulk strings. TypeError: an argument of another type; OverflowError: an
    int beyond 64 bits; UnicodeEncodeError: a str that has no UTF-8."""

def read_reply(data: bytes) -> tuple[Any, int] | str | None:
    """The reply at the front: (value, its bytes on the wire); None when more bytes are needed; a str says why it
    is none: a fault, over REDIS_REPLY_BYTES_MAX, deeper than REDIS_REPLY_DEPTH_MAX. Never raises.

    Strings are bytes, an error is a Refusal (also within an array), nil is None, a map is a list of its pairs, a
    set a list. What is streamed in chunks (`$?`, `*?`) and attributes (`|`) are faults: Herald asks for neither."""

def slot_of(key: str | bytes) -> int:
    """The hash slot of a key, 0 to 16,383: of its hash tag {...} where it has one that is not empty."""
