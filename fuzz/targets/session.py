"""The session under every order of calls that the gateway may make: lanes, window, acks, pings, closes.

An input is one call after the other: a byte that says which, and up to four bytes of arguments.
"""

from collections.abc import Callable
from typing import Any

from fuzz.target import Target, outcome, same
from gateway._fast import session
from tests.reference import session as twin

Bytes = Callable[[], int]


def _item(byte: Bytes) -> tuple[int, int, int, bytes, bytes]:
    """lane, seq, prev, id, body."""
    lane, seq = byte() % 8, byte()
    back, size = byte(), byte()
    return lane, seq, seq - back % 8, bytes([seq, lane]) * 8, b"x" * (size * size)


def _ident(byte: Bytes) -> bytes:
    seq = byte()
    return bytes([seq, byte() % 8]) * 8


def _feed(byte: Bytes) -> tuple[int, bool, int, bytes, int]:
    first = byte()
    return first & 15, first < 0x80, 0, bytes([byte()]) * (byte() % 130), byte() * 100


# A method of Session, and its arguments from the input's bytes.
CALLS: tuple[tuple[str, Callable[[Bytes], tuple[object, ...]]], ...] = (
    ("offer", _item),
    ("offer", lambda byte: (*_item(byte), True)),
    ("fill", _item),
    ("ack", lambda byte: (_ident(byte),)),
    ("ack_upto", lambda byte: (_ident(byte),)),
    ("ack", lambda byte: (bytes(byte() % 20),)),
    ("advance", lambda byte: (byte() % 8, byte())),
    ("set_at", lambda byte: (byte() % 8, byte() - 1)),
    ("begin_live", lambda byte: ()),
    ("ping", lambda byte: (byte() * 1_000,)),
    ("send", lambda byte: (b"y" * byte(),)),
    ("take", lambda byte: ()),
    ("feed", _feed),
    ("feed", _feed),
    ("close", lambda byte: (byte() * 20, "\xe9" * byte())),
    ("bad_frame", lambda byte: ()),
    ("end", lambda byte: ()),
    ("take", lambda byte: (byte(),)),
    ("send", lambda byte: (b"z" * byte(), False, True)),
)
READS = ("pong_due_ms", "take_rtt_ms", "at", "wanted", "window_free", "unacked")


def run(data: bytes) -> None:
    rest = iter(data)
    ours, twins = _start(session), _start(twin)
    for chosen in rest:
        if chosen >= 250:
            ours.blocked = twins.blocked = chosen % 2 == 0
            continue
        name, arguments = CALLS[chosen % len(CALLS)]
        given = arguments(lambda: next(rest, 0))
        results = [outcome(getattr(one, name), *given, raising=(ValueError,)) for one in (ours, twins)]
        same(name, *results)
        same("phase", (ours.phase, ours.pending()), (twins.phase, twins.pending()))
    for read in READS:
        same(read, getattr(ours, read)(), getattr(twins, read)())
    same("written", ours.take(), twins.take())


def _start(module: Any) -> Any:
    one = module.Session(0)
    one.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
    return one


TARGET = Target(
    run,
    seeds=(
        b"\x07\x00\x01\x08" + b"".join(b"\x00\x00" + bytes([seq]) + b"\x01\x09" for seq in range(1, 9)) + b"\x0b",
        b"\x07\x00\x01\x08\x00\x00\x01\x01\x05\x03\x01\x00\x00\x00\x02\x01\x05\x04\x02\x00\x0b",
        b"\x02\x01\x05\x00\x10\x02\x01\x06\x01\x10\x08\xfa\x00\x01\x07\x01\x05\xfb\x0b\x10",
        b"\x09\x01\x0c\x0a\x00\x00\x00\x0e\x32\x05\x0b\x0c\x08\x00\x00\x00",
    ),
    bytes_max=600,
)
