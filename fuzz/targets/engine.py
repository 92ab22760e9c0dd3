"""The engine over real sockets: bytes in any pieces, and a client hears what the twins would say.

One byte leads: its low bits say how large the pieces are, its high bit puts a good request in front.
"""

from functools import cache

from fuzz.serving import Server
from fuzz.target import Target
from notification.limits import HEADER_BYTES_MAX

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
server = cache(Server)  # made by the first input: importing this module opens nothing


def piece_bytes(kind: int, stream: bytes) -> int:
    return (1, 2, 3, 7, 64, 1_000, 5_000, len(stream) or 1)[kind & 7]


def run(data: bytes) -> None:
    kind, stream = (data[0], data[1:]) if data else (0, b"")
    stream = HEAD + stream if kind & 0x80 else stream
    server(False).exchange(stream, piece_bytes(kind, stream))


MASK = b"\0\0\0\0"
TARGET = Target(
    run,
    seeds=(
        b"\x07" + HEAD + b"\x81\x82" + MASK + b"{}",
        b"\x82\x01\x83" + MASK + b"\xe2\x82\xac\x80\x80" + MASK + b"\x89\x81" + MASK + b"p",
        b"\x87\x81\x81" + MASK + b"c\x81\x81" + MASK + b"x\x88\x82" + MASK + b"\x03\xe8",
        b"\x84\x81\x81" + MASK + b"a",
        b"\x87\x81\x81" + MASK + b"r\x81\x80" + MASK,
        b"\x05" + HEAD + b"\x81\xfe\x10\x00" + MASK + b"x" * 4_096,
        b"\x06GET / HTTP/1.1\r\nX: " + b"y" * HEADER_BYTES_MAX,
        b"\x87" + b"\x89\x80" + MASK,
    ),
    words=(
        MASK, b"\x81\x81" + MASK + b"a", b"\x81\x81" + MASK + b"c", b"\x81\x81" + MASK + b"r", b"\x89\x80" + MASK,
        b"\x01\x81" + MASK + b"x", b"\x80\x80" + MASK, b"\x88\x82" + MASK + b"\x03\xe8", b"\xff\x00\x00\x00",
        b"\r\n", b"\xfe\x40\x00", b"\r\n\r\n", HEAD,
    ),
    bytes_max=24_000,
)  # fmt: skip
