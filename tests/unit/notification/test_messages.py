"""notification.messages: MessagePack between gateway and worker."""

import msgspec
import pytest

from notification import messages
from notification.codes import LANE_COUNT
from notification.frames import Counters, Cursor

ID = bytes(range(16))
REQUESTS = [
    messages.FillsRequest([]),
    messages.FillsRequest(
        [
            messages.FillRequest("demo", "ann", True, None, messages.LANES_UNKNOWN, 200),
            messages.FillRequest("demo", "ann", False, Cursor(7, {"direct.high": 3}), [3, 0, 0, 0, 0, 0], 5),
        ]
    ),
    messages.StateRequest("demo", "ann", "phone", [ID], "read"),
    messages.PageRequest("demo", "ann", b"", 50),
    messages.EdgeRequest(0),
    messages.RecallRequest("demo", ID),
    messages.EntitledRequest("demo", 3, 7, ["ann", "bob", "ann"]),
    messages.AudienceFillRequest("demo", 5, 0),
]
REPLIES = [
    messages.FillsReply(
        [
            messages.FillReply(
                7, True, [messages.FillItem(0, 2, 1, 0, ID, b"{}")], [2, 0, 0, 0, 0, 0], False, Counters(1, 2), 99
            ),
            messages.Failure("bad_frame"),
        ]
    ),
    messages.StateReply(Counters(0, 3)),
    messages.PageReply(b'{"t":"page"}'),
    messages.EdgeReply(
        2, 7,
        [messages.EdgeTenant("demo", "active", ["https://x"], [messages.EdgeKey("i", "a", "", "HS256", b"k")])],
    ),
    messages.EdgeReply(2, 7, None),
    messages.RecallReply(2, True, False),
    messages.EntitledReply(b"\xa0"),
    messages.AudienceFillReply([messages.FillItem(5, 2, 1, 0, ID, b"{}")], [True], 4, False, 99),
    messages.Failure("busy"),
]  # fmt: skip


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_requests_round_trip(message: messages.InboxRequest) -> None:
    assert messages.decode_request(messages.encode(message)) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_replies_round_trip(message: messages.InboxReply) -> None:
    assert messages.decode_reply(messages.encode(message)) == message


def test_receipts_and_beats_round_trip() -> None:
    entry = messages.ReceiptsEntry(
        "g-0-X", 1, [messages.AckReceipt("demo", "ann", "phone", 0, 7, ID, 1_700)],
        [messages.ConnectionReceipt("open", "c1", "demo", "ann", "phone", 0, 1_699)],
    )  # fmt: skip
    assert messages.decode_receipts(messages.encode(entry)) == entry
    beat = messages.Beat("g-0-X", 1_700, 5, False)
    assert messages.decode_beat(messages.encode(beat)) == beat


# A receipts entry whose gateway id is no text.
NOT_UTF8 = messages.encode(messages.ReceiptsEntry("gate", 1, [], [])).replace(b"gate", b"\xff\xfe\xff\xfe")


@pytest.mark.parametrize(
    "noise", [b"", b"\xc0", b"\x90", b"\x91\xa4nope", b"\x00" * 50, b"\xdd\xff\xff\xff\xff", NOT_UTF8]
)
def test_noise_is_a_decode_error(noise: bytes) -> None:
    for decode in (
        messages.decode_request, messages.decode_reply, messages.decode_receipts, messages.decode_beat,
    ):  # fmt: skip
        with pytest.raises(msgspec.DecodeError):
            decode(noise)


def test_a_later_version_may_append_fields() -> None:
    grown = msgspec.msgpack.encode([*msgspec.msgpack.decode(messages.encode(messages.EdgeRequest(3))), "more"])
    assert messages.decode_request(grown) == messages.EdgeRequest(3)


def test_lanes_unknown_has_every_lane() -> None:
    assert messages.LANES_UNKNOWN == [-1] * LANE_COUNT
