"""The packed batch of the bus: what a worker sends to one gateway process, and the answer.

Batch (network byte order):

    magic "HB" | version u8 | reserved u8 | count u16 | reserved u16 | database time u64 (Unix ms) | CRC-32C u32
    count x item:
        kind u8 | lane u8 | attempt u8 | tag length u8 | body length u32
        seq u64 | prev u64 | expiry u64 (Unix ms, 0 = never) | id 16 bytes | tag (ASCII) | body

The checksum covers the header before it and every item. `tag` is names.user_tag: the gateway routes by it
and writes `body` as it is: the JSON text of the client frame, encoded once by the worker. Expiry is judged
on the gateway's monotonic clock, counted from the header's database time.

On names.audience_subject a batch is published, so nobody replies, and each item is for an audience: `tag` is the
tenant id, `lane` one of 3 to 5, and `attempt` says whether EVERYONE of the tenant may have it. If not, the gateway
asks who (messages.EntitledRequest). Three kinds come there: AUDIENCE, HEADS, and CONTROL, a state frame about the
entry `seq` of `lane`.

Reply: magic "HR" | version u8 | reserved u8 | count u16 | one codes.ReceiptCode byte per item, in order.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import google_crc32c

from notification.codes import ReceiptCode
from notification.errors import BadBatch
from notification.limits import BUS_MESSAGE_BYTES_MAX

VERSION: Final = 1
NOTIFICATION: Final = 0  # goes through the session's lanes and window
CONTROL: Final = 1  # a state or counters frame: written to every connection of the user, no ack, no seq
AUDIENCE: Final = 2  # as NOTIFICATION, for whoever of the tenant is entitled
HEADS: Final = 3  # heads_item(): how far the tenant's audience lanes are, so that a lost last message shows

EVERYONE: Final = 1  # Item.attempt of an audience's item: whoever is of the tenant; 0: the gateway has to ask

_MAGIC: Final = b"HB"
_REPLY_MAGIC: Final = b"HR"
_HEADER: Final = struct.Struct("!2sBxHxxQ")
_CRC: Final = struct.Struct("!I")
_ITEM: Final = struct.Struct("!BBBBIQQQ16s")
_REPLY: Final = struct.Struct("!2sBxH")
_HEADS: Final = struct.Struct("!3Q")
_HEAD_BYTES: Final = _HEADER.size + _CRC.size

OVERHEAD_BYTES: Final = _HEAD_BYTES
ITEM_OVERHEAD_BYTES: Final = _ITEM.size


class Item(NamedTuple):
    """One entry of a batch. `seq`/`prev` are per lane; `expiry_ms` Unix ms by the database clock, 0 = never."""

    kind: int
    lane: int
    attempt: int
    seq: int
    prev: int
    expiry_ms: int
    id: bytes
    tag: bytes
    body: bytes

    @property
    def size_bytes(self) -> int:
        return ITEM_OVERHEAD_BYTES + len(self.tag) + len(self.body)


def pack(items: Sequence[Item], database_ms: int) -> bytes:
    """Encode a batch. The caller keeps it under BUS_BATCH_BYTES_MAX."""
    parts = []
    for item in items:
        parts.append(
            _ITEM.pack(
                item.kind, item.lane, item.attempt, len(item.tag), len(item.body),
                item.seq, item.prev, item.expiry_ms, item.id,
            )
        )  # fmt: skip
        parts.append(item.tag)
        parts.append(item.body)
    body = b"".join(parts)
    header = _HEADER.pack(_MAGIC, VERSION, len(items), database_ms)
    return header + _CRC.pack(google_crc32c.value(header + body)) + body


def unpack_header(message: bytes) -> tuple[int, int]:
    """(database time in Unix ms, count of items, which begin at OVERHEAD_BYTES). Raises BadBatch."""
    if not _HEAD_BYTES <= len(message) <= BUS_MESSAGE_BYTES_MAX:
        raise BadBatch(f"batch of {len(message)} bytes")
    magic, version, count, database_ms = _HEADER.unpack_from(message)
    if magic != _MAGIC or version != VERSION:
        raise BadBatch("not a batch of version 1")
    (crc,) = _CRC.unpack_from(message, _HEADER.size)
    if google_crc32c.value(message[: _HEADER.size] + message[_HEAD_BYTES:]) != crc:
        raise BadBatch("checksum mismatch")
    return database_ms, count


def unpack(message: bytes) -> tuple[int, list[Item]]:
    """Decode a batch: (database time in Unix ms, items). Raises BadBatch, never anything else."""
    database_ms, count = unpack_header(message)
    return database_ms, unpack_items(message, _HEAD_BYTES, count)


def unpack_items(message: bytes, start: int, count: int) -> list[Item]:
    """The `count` items from `start` to the end of a message. Raises BadBatch.

    The gateway's router (gateway/_fast/router.pyx) walks them in place instead; a test holds both equal.
    """
    items = []
    at = start
    for _ in range(count):
        if at + _ITEM.size > len(message):
            raise BadBatch("item header cut short")
        kind, lane, attempt, tag_bytes, body_bytes, seq, prev, expiry_ms, ident = _ITEM.unpack_from(message, at)
        at += _ITEM.size
        end = at + tag_bytes + body_bytes
        if end > len(message):
            raise BadBatch("item cut short")
        tag = message[at : at + tag_bytes]
        items.append(Item(kind, lane, attempt, seq, prev, expiry_ms, ident, tag, message[at + tag_bytes : end]))
        at = end
    if at != len(message):
        raise BadBatch("bytes after the last item")
    return items


def heads_item(tenant: str, heads: Sequence[int]) -> Item:
    """The HEADS item of a tenant: the last seq of its lanes 3, 4, 5; 0 = the lane is empty."""
    return Item(HEADS, 0, 0, 0, 0, 0, bytes(16), tenant.encode("ascii"), _HEADS.pack(*heads))


def unpack_heads(body: bytes) -> tuple[int, int, int]:
    """The seqs of heads_item(). Raises BadBatch."""
    if len(body) != _HEADS.size:
        raise BadBatch(f"heads of {len(body)} bytes")
    high, medium, low = _HEADS.unpack(body)
    return high, medium, low


def pack_reply(codes: Sequence[int]) -> bytes:
    """Encode one ReceiptCode per item."""
    return _REPLY.pack(_REPLY_MAGIC, VERSION, len(codes)) + bytes(codes)


def unpack_reply(message: bytes, count: int) -> list[ReceiptCode]:
    """Decode the reply to a batch of `count` items. Raises BadBatch."""
    if len(message) != _REPLY.size + count:
        raise BadBatch("reply of the wrong length")
    magic, version, said = _REPLY.unpack_from(message)
    if magic != _REPLY_MAGIC or version != VERSION or said != count:
        raise BadBatch("not a reply of version 1")
    try:
        return [ReceiptCode(code) for code in message[_REPLY.size :]]
    except ValueError as error:
        raise BadBatch("unknown receipt code") from error
