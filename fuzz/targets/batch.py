"""The packed batch of the bus: nothing but BadBatch comes out of a bad one, and a good one packs back."""

import google_crc32c

from fuzz.target import Target, outcome, same
from notification import batch
from notification.batch import Item
from notification.errors import BadBatch

_RESERVED = (3, 6, 7)  # header bytes that pack() writes as 0


def run(data: bytes) -> None:
    unpacked = outcome(batch.unpack, data, raising=(BadBatch,))
    if not isinstance(unpacked, tuple):
        return
    database_ms, items = unpacked
    plain = bytearray(data)
    for index in _RESERVED:
        plain[index] = 0
    same("packed again", batch.pack(items, database_ms), repair(bytes(plain)))
    outcome(batch.unpack_reply, data, len(items), raising=(BadBatch,))


def repair(data: bytes) -> bytes:
    """The same with a right checksum."""
    start = batch.OVERHEAD_BYTES
    if len(data) < start:
        return data
    crc = google_crc32c.value(data[: start - 4] + data[start:])
    return data[: start - 4] + int(crc).to_bytes(4, "big") + data[start:]


def _items(count: int) -> list[Item]:
    return [Item(0, n % 6, n % 4, n + 1, n, 0, bytes([n]) * 16, b"acme:YW5u", b'{"t":"n"}') for n in range(count)]


TARGET = Target(
    run,
    seeds=tuple(batch.pack(_items(count), 1_700_000_000_000) for count in (0, 1, 2, 7)),
    words=(b"HB\x01", b"acme:YW5u", b"\x00" * 8, b"\xff" * 8, b"\x01\x00"),
    repair=repair,
)
