"""Client frames and the session above them, on a clock of our own.

Three bytes lead: ms between frames (x 50), every how many frames the server PINGs, and every how many it writes.
"""

from typing import Any

from fuzz.target import Target, same
from gateway._fast import framing, session
from notification.limits import FRAME_BYTES_MAX
from tests.reference import framing as framing_twin
from tests.reference import session as session_twin


def _start(module: Any) -> Any:
    one = module.Session(0)
    one.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
    return one


def _state(one: Any) -> tuple[object, ...]:
    return one.phase, one.close_code, one.close_received, one.close_sent, one.pending(), one.pong_due_ms()


def run(data: bytes) -> None:
    step_ms, ping_every, take_every = (*data[:3], 0, 0, 0)[:3]
    ours, twins = _start(session), _start(session_twin)
    at, now_ms, number = 3, 0, 0
    while at < len(data):
        frame = framing.read_frame(data[at:], FRAME_BYTES_MAX)
        same("frame", frame, framing_twin.read_frame(data[at:], FRAME_BYTES_MAX))
        if isinstance(frame, int):
            break
        opcode, fin, rsv, payload, used = frame
        at, now_ms, number = at + used, now_ms + step_ms * 50, number + 1
        if ping_every and number % ping_every == 0:
            ours.ping(now_ms)
            twins.ping(now_ms)
        same("text", ours.feed(opcode, fin, rsv, payload, now_ms), twins.feed(opcode, fin, rsv, payload, now_ms))
        same("state", _state(ours), _state(twins))
        if take_every and number % take_every == 0:
            same("written", ours.take(), twins.take())
    same("written at last", ours.take(), twins.take())
    same("state at last", _state(ours), _state(twins))


MASK = b"\0\0\0\0"
TARGET = Target(
    run,
    seeds=(
        b"\0\0\1\x81\x82" + MASK + b"{}",
        b"\x14\2\1\x01\x83" + MASK + b"\xe2\x82\xac\x80\x80" + MASK + b"\x89\x81" + MASK + b"p",
        b"\0\0\0\x88\x82" + MASK + b"\x03\xe8",
        b"\0\1\1\x8a\x84" + MASK + b"\0\0\0\1\x81\xfe\x00\x7e" + MASK + b"x" * 126,
        b"\xff\0\1\x01\x81" + MASK + b"a" + (b"\x00\x81" + MASK + b"b") * 5 + b"\x80\x81" + MASK + b"c",
    ),
    words=(
        MASK, b"\x81\x81" + MASK + b"a", b"\x01\x81" + MASK + b"a", b"\x00\x81" + MASK + b"a", b"\x80\x80" + MASK,
        b"\x89\x80" + MASK, b"\x8a\x80" + MASK, b"\x88\x80" + MASK, b"\xff\x00\x00\x00\x00\x00\x01\x00\x00",
        b"\xfe\x40\x00", b"\xed\xa0\x80", b"\xf4\x8f\xbf\xbf", b"\xf0\x90\x80\x80", b"\x03\xe8",
    ),
    bytes_max=20_000,
)  # fmt: skip
