"""The files that the load generator works from: request heads, batches, the ledger, canned answers."""

import base64
import os
import struct
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import jwt
import msgspec

from notification import batch
from notification.batch import NOTIFICATION, Item
from notification.codes import LANE_COUNT, LANE_NAMES, Lane
from notification.frames import CONNECT_PATH, SUBPROTOCOL, Counters, Notification, encode
from notification.ids import new_uuid7
from notification.limits import BUS_BATCH_BYTES_MAX
from notification.messages import FillReply
from notification.names import user_tag

TENANT: Final = "bench"
ISSUER: Final = "herald:bench"
AUDIENCE: Final = "herald"
ORIGIN: Final = "https://app.example"  # the only page that may connect
EPOCH: Final = 1
TAG_HEADER: Final = "X-Bench-Tag"  # the floor's way to know a client
_TOKEN_S: Final = 3_600
_RECORD: Final = struct.Struct("!HHII")
_ENTRY: Final = struct.Struct("=QII")
_COUNT: Final = struct.Struct("!H")
_LAST_U64: Final = 0xCF  # MessagePack: uint 64


def user_name(number: int) -> str:
    return f"user-{number:07d}"


def tag_of(number: int) -> str:
    return user_tag(TENANT, user_name(number))


def write_heads(path: Path, users: Iterable[int], device: str, secret: bytes) -> None:
    """A request head per user, each with a token of its own that no gateway has seen."""
    with path.open("wb") as file:
        for number in users:
            text = head(number, device, secret).encode("ascii")
            file.write(_COUNT.pack(len(text)) + text)


def head(number: int, device: str, secret: bytes) -> str:
    """A good request of a user, with a token that no gateway has seen."""
    now_s = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user_name(number), "tid": TENANT, "iat": now_s,
              "exp": now_s + _TOKEN_S, "jti": str(uuid.uuid4())}  # fmt: skip
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {CONNECT_PATH}?device={device} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{TAG_HEADER}: {tag_of(number)}\r\n"
        f"Authorization: Bearer {jwt.encode(claims, secret, algorithm='HS256')}\r\n\r\n"
    )


class Numbered(NamedTuple):
    """A notification for a user: `number` is its place in the ledger and the end of its id."""

    number: int
    user: int
    seq: int


def in_turn(users: int, count: int, burst: int = 1) -> Iterator[Numbered]:
    """`count` notifications to users in turn, `burst` at a time to each; seq per user from 1."""
    seqs = [0] * users
    for number in range(count):
        user = number // burst % users
        seqs[user] += 1
        yield Numbered(number, user, seqs[user])


def item_of(one: Numbered, body_bytes: int, lane: Lane = Lane.DIRECT_HIGH, kind: int = NOTIFICATION) -> Item:
    """The bus item; its body is about `body_bytes` long, as role dispatch would encode it."""
    ident = new_uuid7().bytes[:12] + one.number.to_bytes(4)
    now_ms = time.time_ns() // 1_000_000
    fill = "x" * max(0, body_bytes - 230)
    frame = Notification(
        lane=LANE_NAMES[lane], seq=one.seq, id=str(uuid.UUID(bytes=ident)), type="service", priority="high",
        sent_at=now_ms, expires_at=now_ms + 86_400_000,
        p=msgspec.Raw(b'{"title":"bench","body":"%b"}' % fill.encode()),
    )  # fmt: skip
    return Item(kind, lane, 1, one.seq, one.seq - 1, 0, ident, tag_of(one.user).encode(), encode(frame))


def record(subject: str, items: Sequence[Item], first: int) -> bytes:
    """One record of a feed file (native/upstream.h)."""
    packed = batch.pack(items, time.time_ns() // 1_000_000)
    if len(packed) > BUS_BATCH_BYTES_MAX:
        raise ValueError(f"a batch of {len(packed)} bytes: fewer or smaller notifications")
    head = _RECORD.pack(len(subject), len(items), first, len(packed))
    return head + subject.encode("ascii") + packed


def write_feed(path: Path, subject: str, items: Sequence[Item], batch_items: int) -> None:
    """Cut items, numbered from 0, into batches for one subject."""
    with path.open("wb") as file:
        for first in range(0, len(items), batch_items):
            file.write(record(subject, items[first : first + batch_items], first))


def write_ledger(path: Path, count: int) -> None:
    path.write_bytes(b"\0" * (count * _ENTRY.size))


class Ledger(NamedTuple):
    """What became of the notifications: never came, came more than once."""

    lost: int
    repeated: int


def read_ledger(path: Path) -> Ledger:
    received = [times for _, times, _ in _ENTRY.iter_unpack(path.read_bytes())]
    return Ledger(received.count(0), sum(times > 1 for times in received))


def write_empty_fill(path: Path) -> None:
    """What role inbox says of a user without notifications, one of the answers of a messages.FillsReply; it ends in
    its time, which the generator renews."""
    packed = msgspec.msgpack.encode(FillReply(EPOCH, True, [], [0] * LANE_COUNT, False, Counters(0, 0), 1 << 40))
    if packed[-9] != _LAST_U64:
        raise ValueError("a fill reply no longer ends in its time")
    path.write_bytes(packed)
