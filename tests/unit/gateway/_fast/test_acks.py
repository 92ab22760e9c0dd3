"""gateway/_fast/acks over the extension and its twin; any text is read as frames.decode_client reads it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import acks as extension
from gateway._fast import session as sessions
from notification import limits, messages
from notification.codes import Lane
from notification.frames import IDS_PER_FRAME_MAX
from notification.messages import AckReceipt
from tests.reference import acks as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import LANE, ack_of, ident, live, name


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)
    assert IDS_PER_FRAME_MAX == limits.UNACKED_PER_CONNECTION_MAX


def session(*numbers: int) -> Any:
    """A session with these ids written and unacked."""
    made = live(sessions)
    for seq, number in enumerate(numbers, 1):
        assert made.offer(LANE, seq, seq - 1, ident(number), b"{}") == sessions.WRITTEN
    made.take()
    return made


def receipts(acks: Any) -> list[AckReceipt]:
    return msgspec.msgpack.decode(acks.take(), type=list[AckReceipt])


@both(extension, twin)
class TestAcks:
    def test_ids(self, module: Any) -> None:
        acks, ann = module.Acks(), session(1, 2, 3, 4)
        assert acks.ack(ann, ack_of(3), 1_700) == 1
        assert acks.ack(ann, ack_of(1, 2, 2, 9), 1_800) == 2
        assert (len(acks), ann.unacked()) == (3, 1)
        assert receipts(acks) == [
            AckReceipt("t", "u", "d", LANE, 3, ident(3), 1_700),
            AckReceipt("t", "u", "d", LANE, 1, ident(1), 1_800),
            AckReceipt("t", "u", "d", LANE, 2, ident(2), 1_800),
        ]  # fmt: skip
        assert (len(acks), acks.take()) == (0, b"\x90")

    def test_upto(self, module: Any) -> None:
        acks, ann = module.Acks(), session(1, 2, 3)
        assert acks.ack(ann, b'{"t":"ack","upto":"%b"}' % name(2).encode(), 5) == 2
        assert acks.ack(ann, b'{"t":"ack","upto":"%b"}' % name(2).encode(), 5) == 0
        assert [(one.seq, one.id) for one in receipts(acks)] == [(1, ident(1)), (2, ident(2))]
        assert ann.unacked() == 1

    def test_as_many_as_a_frame_may_name(self, module: Any) -> None:
        most = IDS_PER_FRAME_MAX
        acks, ann = module.Acks(), session(*range(1, most + 1))
        assert acks.ack(ann, ack_of(*range(1, most + 2)), 5) == -1
        assert (ann.unacked(), len(acks)) == (most, 0)
        assert acks.ack(ann, ack_of(*range(1, most + 1)), 5) == most
        assert [one.seq for one in receipts(acks)] == list(range(1, most + 1))

    def test_capital_letters(self, module: Any) -> None:
        number = 0xABCDEF << 40
        acks = module.Acks()
        assert acks.ack(session(number), b'{"t":"ack","ids":["%b"]}' % name(number).upper().encode(), 5) == 1

    @pytest.mark.parametrize(
        "text",
        [
            b"", b"{}", b'{"t":"ping"}', b'{"t":"ack"}', b'{"t":"ack","ids":[]}', b'{"t":"ack","ids":[""]}',
            ack_of(1).replace(b":", b": "), ack_of(1) + b" ", b" " + ack_of(1), ack_of(1)[:-1],
            ack_of(1).replace(b"ids", b"upto"), ack_of(1, 2).replace(b"[", b"").replace(b"]", b""),
            ack_of(1).replace(b"-", b"0", 1), ack_of(1).replace(b"000-", b"00--", 1), ack_of(1).replace(b"1", b"g"),
            ack_of(1).replace(b"1", b"\\"), ack_of(1, 2).replace(b'","', b'";"'), ack_of(1)[:-2] + b'",]}',
            b'{"t":"ack","ids":null,"upto":"%b"}' % name(1).encode(),
            b'{"t":"ack","ids":["%b"],"upto":null}' % name(1).encode(),
        ],
    )  # fmt: skip
    def test_any_other_text_is_left_alone(self, module: Any, text: bytes) -> None:
        acks, ann = module.Acks(), session(1, 2)
        assert acks.ack(ann, text, 5) == -1
        assert (len(acks), ann.unacked()) == (0, 2)

    def test_receipts_of_acks_read_elsewhere(self, module: Any) -> None:
        acks, ann = module.Acks(), session()
        acks.put(ann, Lane.DIRECT_LOW, 7, ident(1), 5)
        with pytest.raises(ValueError, match="16 bytes"):
            acks.put(ann, 0, 7, b"short", 5)
        assert receipts(acks) == [AckReceipt("t", "u", "d", Lane.DIRECT_LOW, 7, ident(1), 5)]

    def test_who_collects_them_hears_of_the_first_and_when_they_are_many(self, module: Any) -> None:
        told: list[int] = []
        acks = module.Acks(lambda: told.append(len(acks)))
        ann, most = session(1, 2, 3, 4), limits.RECEIPTS_PER_ENTRY_MAX
        assert acks.ack(ann, ack_of(9), 5) == 0
        assert told == []
        acks.ack(ann, ack_of(1, 2), 5)
        acks.ack(ann, ack_of(3), 5)
        acks.put(ann, LANE, 8, ident(8), 5)
        assert told == [2]
        for seq in range(most - 5):
            acks.put(ann, LANE, seq, ident(8), 5)
        assert told == [2]
        acks.ack(ann, ack_of(4), 5)
        acks.put(ann, LANE, 9, ident(9), 5)
        assert told == [2, most, most + 1]
        acks.take()
        acks.put(ann, LANE, 9, ident(9), 5)
        assert told == [2, most, most + 1, 1]


U63 = st.integers(0, 2**63 - 1)
NAMES = st.text(max_size=300)
RECEIPTS = st.lists(
    st.builds(
        AckReceipt, tenant=NAMES, user=NAMES, device=NAMES, lane=st.integers(0, 255), seq=U63,
        id=st.binary(min_size=16, max_size=16), at_ms=U63,
    ),
    max_size=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(RECEIPTS)
def test_receipts_are_packed_as_msgspec_does(wanted: list[AckReceipt]) -> None:
    acks = extension.Acks()
    for one in wanted:
        ann = sessions.Session(0)
        ann.authenticate(one.tenant, one.user, one.device, bytes(16), b"", 1, 0)
        acks.put(ann, one.lane, one.seq, one.id, one.at_ms)
    entry = messages.ReceiptsEntry("g-1", 7, wanted, [])
    packed = messages.encode_receipts("g-1", 7, acks.take(), [])
    assert packed == messages.encode(entry)
    assert messages.decode_receipts(packed) == entry


IDS = st.one_of(st.integers(1, 6).map(name), st.uuids().map(str), st.text(max_size=40))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | IDS, lambda one: st.lists(one, max_size=4), max_leaves=5
)
OBJECTS = st.one_of(
    st.fixed_dictionaries(
        {"t": st.just("ack"), "ids": st.lists(st.integers(1, 9).map(name), min_size=1, max_size=6)}
    ),
    st.fixed_dictionaries({"t": st.just("ack"), "upto": st.integers(1, 9).map(name)}),
    st.fixed_dictionaries(
        {"t": st.sampled_from(["ack", "ack", "ping", "nope"])}, optional={"ids": JSON, "upto": JSON, "x": JSON}
    ),
)


@settings(max_examples=400, deadline=None)
@given(OBJECTS, st.sampled_from([(",", ":"), (",", ":"), (", ", ": ")]), st.binary(max_size=2), st.integers(0, 400))
def test_extension_and_twin_agree(value: Any, separators: tuple[str, str], noise: bytes, at: int) -> None:
    """On encoders' texts, and on texts with some bytes overwritten."""
    text = json.dumps(value, separators=separators).encode()
    text = text[:at] + noise + text[at + len(noise) :]
    (ours, left), (theirs, right) = ((module.Acks(), session(*range(1, 7))) for module in (extension, twin))
    assert ours.ack(left, text, 9) == theirs.ack(right, text, 9)
    assert left.unacked() == right.unacked()
    assert ours.take() == theirs.take()
