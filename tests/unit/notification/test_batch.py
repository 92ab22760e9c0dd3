"""notification.batch: what is packed comes back; anything else is BadBatch and nothing but BadBatch."""

import contextlib
import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification import batch
from notification.codes import ReceiptCode
from notification.errors import BadBatch
from notification.limits import BUS_MESSAGE_BYTES_MAX

U64 = st.integers(0, 2**64 - 1)
U8 = st.integers(0, 255)
ITEMS = st.lists(
    st.builds(
        batch.Item, kind=U8, lane=U8, attempt=U8, seq=U64, prev=U64, expiry_ms=U64,
        id=st.binary(min_size=16, max_size=16), tag=st.binary(max_size=255), body=st.binary(max_size=600),
    ),
    max_size=8,
)  # fmt: skip
ITEM = batch.Item(batch.NOTIFICATION, 0, 1, 7, 6, 0, bytes(range(16)), b"demo:YW5u", b'{"t":"n"}')


def sealed(message: bytes) -> bytes:
    """The message with a right checksum, whatever else is wrong with it."""
    head, body = message[:16], message[20:]
    return head + struct.pack("!I", google_crc32c.value(head + body)) + body


@given(ITEMS, U64)
def test_round_trip(items: list[batch.Item], database_ms: int) -> None:
    packed = batch.pack(items, database_ms)
    assert len(packed) == batch.OVERHEAD_BYTES + sum(item.size_bytes for item in items)
    assert batch.unpack(packed) == (database_ms, items)


@given(ITEMS, st.data())
def test_a_flipped_bit_is_found(items: list[batch.Item], data: st.DataObject) -> None:
    packed = bytearray(batch.pack(items, 1))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadBatch):
        batch.unpack(bytes(packed))


@given(ITEMS, st.data())
def test_cut_or_grown_messages_are_found(items: list[batch.Item], data: st.DataObject) -> None:
    packed = batch.pack(items, 1)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    grown = packed + data.draw(st.binary(min_size=1, max_size=40))
    for message in (cut, grown):
        with pytest.raises(BadBatch):
            batch.unpack(message)


@given(st.binary(max_size=200))
def test_noise_is_bad_batch(noise: bytes) -> None:
    with pytest.raises(BadBatch):
        batch.unpack(noise)


@given(st.binary(max_size=120), st.integers(0, 65_535))
def test_noise_behind_a_right_checksum_never_raises_anything_else(noise: bytes, count: int) -> None:
    message = sealed(struct.pack("!2sBxHxxQI", b"HB", batch.VERSION, count, 1, 0) + noise)
    with contextlib.suppress(BadBatch):
        assert len(batch.unpack(message)[1]) == count


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda m: sealed(b"XB" + m[2:]), "version"),
        (lambda m: sealed(m[:2] + b"\x02" + m[3:]), "version"),
        (lambda m: m[:-1] + b"x", "checksum"),
        (lambda m: sealed(m[:4] + b"\x00\x02" + m[6:]), "cut short"),
        (lambda m: sealed(m[:4] + b"\x00\x00" + m[6:]), "after the last item"),
        (lambda m: sealed(m[:-1]), "cut short"),
        (lambda m: b"", "0 bytes"),
        (lambda m: bytes(BUS_MESSAGE_BYTES_MAX + 1), "bytes"),
    ],
)
def test_each_fault_is_named(damage: object, says: str) -> None:
    with pytest.raises(BadBatch, match=says):
        batch.unpack(damage(batch.pack([ITEM], 1)))  # type: ignore[operator]


@given(st.lists(U64, min_size=3, max_size=3))
def test_heads_round_trip(heads: list[int]) -> None:
    _, (item,) = batch.unpack(batch.pack([batch.heads_item("demo", heads)], 1))
    assert (item.kind, item.tag) == (batch.HEADS, b"demo")
    assert list(batch.unpack_heads(item.body)) == heads


@pytest.mark.parametrize("body", [b"", bytes(23), bytes(25)])
def test_heads_of_another_length_are_refused(body: bytes) -> None:
    with pytest.raises(BadBatch, match="heads"):
        batch.unpack_heads(body)


@given(st.lists(st.sampled_from(ReceiptCode), max_size=300))
def test_replies_round_trip(codes: list[ReceiptCode]) -> None:
    assert batch.unpack_reply(batch.pack_reply(codes), len(codes)) == codes


def test_other_replies_are_refused() -> None:
    good = batch.pack_reply([ReceiptCode.WRITTEN, ReceiptCode.FULL])
    for message, count in ((good, 1), (good, 3), (b"XX" + good[2:], 2), (good[:-1] + b"\x09", 2), (b"", 0)):
        with pytest.raises(BadBatch):
            batch.unpack_reply(message, count)
