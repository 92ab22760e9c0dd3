"""What tests of a session share: opcodes, ids, a parser of server frames, a live session."""

import json
import struct
import uuid
from collections.abc import Iterator
from typing import Any

from notification.codes import LANE_COUNT, Lane

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
LANE = Lane.DIRECT_MEDIUM


def ident(number: int) -> bytes:
    return number.to_bytes(16, "big")


def name(number: int) -> str:
    return str(uuid.UUID(int=number))


def ack_of(*numbers: int) -> bytes:
    """An ack by ids as JSON encoders write it."""
    return json.dumps({"t": "ack", "ids": [name(number) for number in numbers]}, separators=(",", ":")).encode()


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Parse server frames: (opcode, payload). Each must be final, unmasked and in its shortest form."""
    at = 0
    while at < len(data):
        first, count = data[at], data[at + 1]
        assert first & 0xF0 == 0x80
        at += 2
        if count == 126:
            (count,) = struct.unpack_from("!H", data, at)
            assert count > 125
            at += 2
        elif count == 127:
            (count,) = struct.unpack_from("!Q", data, at)
            assert count > 65_535
            at += 8
        yield first & 0x0F, data[at : at + count]
        assert at + count <= len(data)
        at += count


def live(module: Any, at: int = 0) -> Any:
    """A session that is LIVE with every lane at `at`."""
    session = module.Session(0)
    session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 7, 0)
    for lane in range(LANE_COUNT):
        session.set_at(lane, at)
    session.begin_live()
    return session


def closed_with(session: Any) -> tuple[int, str]:
    """Code and reason of the close frame that ends the queue."""
    opcode, payload = list(frames(session.take()))[-1]
    assert opcode == CLOSE
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()
