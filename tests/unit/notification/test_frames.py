"""notification.frames: strict towards clients, tolerant towards servers, exact about cursors."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification import frames
from notification.codes import LANE_NAMES
from notification.errors import InvalidInput

SEQ = st.integers(0, 2**53 - 1)
CURSORS = st.builds(frames.Cursor, SEQ, st.dictionaries(st.sampled_from(LANE_NAMES), SEQ))
CLIENT = [
    frames.Auth("x.y.z", "phone", frames.Cursor(7, {"direct.high": 3})),
    frames.Ack(ids=["a"]),
    frames.Ack(upto="a"),
    frames.SetState(["a", "b"], "read"),
    frames.Page("a", 10),
    frames.Ping(),
    frames.Reauth("x.y.z"),
]
SERVER = [
    frames.Notification(
        "direct.low", 1, "i", "service", "low", 1, 2, msgspec.Raw(b'{"title":"T","body":"B"}'), "key"
    ),
    frames.Welcome("s", "d.u.v", 30, 7, "pending"),
    frames.Resumed({"direct.high": 3}, frames.Counters(1, 2), True),
    frames.CountersFrame(1, 2),
    frames.StateFrame(["a"], "read", 3, 0),
    frames.PageFrame([frames.PageItem(msgspec.Raw(b'{"t":"n"}'), read=True)], frames.Counters(0, 1), "a"),
    frames.Pong(),
    frames.Goaway(1_500),
    frames.ErrorFrame("busy", 1_000),
]


@pytest.mark.parametrize("frame", CLIENT, ids=lambda frame: type(frame).__name__)
def test_client_frames_round_trip(frame: frames.ClientFrame) -> None:
    assert frames.decode_client(frames.encode(frame)) == frame


@pytest.mark.parametrize("frame", SERVER, ids=lambda frame: type(frame).__name__)
def test_server_frames_round_trip_and_stay_open_for_more_fields(frame: frames.ServerFrame) -> None:
    text = frames.encode(frame)
    assert frames.decode_server(text) == frame
    assert frames.decode_server(json.dumps({**json.loads(text), "later": 1})).__class__ is type(frame)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"{}", b'{"t":"nope"}', b'{"t":"welcome"}', b'{"t":"ping","x":1}',
        b'{"t":"ack","ids":"a"}',
        b'{"t":"state","ids":["a"],"to":"gone"}', b'{"t":"auth"}', b'{"t":"page","limit":"5"}', b'{"t":"ping"}x',
        b'{"t":"ack","ids":[1]}', b"\xff", b'{"t":"auth","token":"\xff"}', b"[" * 5_000, b'{"t":' * 5_000,
    ],
)  # fmt: skip
def test_other_client_frames_are_refused_without_an_echo(text: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        frames.decode_client(text)
    assert str(caught.value) == "frame: is not a frame of herald.v1"


@given(st.binary(max_size=200))
def test_noise_is_invalid_input(noise: bytes) -> None:
    with pytest.raises(InvalidInput):
        frames.decode_client(noise)


def test_an_epoch_is_of_one_log_and_one_user_and_exact_in_json() -> None:
    named = [(7, "acme", "ann"), (8, "acme", "ann"), (7, "acme", "bob"), (7, "other", "ann"), (7, "acm", "e:ann")]
    epochs = [frames.user_epoch(*name) for name in named]
    assert len(set(epochs)) == len(named)
    assert all(0 <= epoch < 2**53 for epoch in epochs)
    assert frames.user_epoch(7, "acme", "ann") == epochs[0]


@given(CURSORS)
def test_cursors_round_trip_as_url_text(cursor: frames.Cursor) -> None:
    text = frames.cursor_to_text(cursor)
    assert not set(text) & set("+/=&?#")
    assert frames.cursor_from_text(text) == cursor


@pytest.mark.parametrize(
    "cursor",
    [
        {"epoch": -1}, {"epoch": 2**53}, {"epoch": "1"}, {"at": {}}, {"epoch": 1, "at": {"direct.huge": 1}},
        {"epoch": 1, "at": {"direct.high": -1}}, {"epoch": 1, "at": {"direct.high": 2**53}},
        {"epoch": 1, "at": {}, "x": 1}, {"epoch": 1, "at": [1]}, [], 1,
    ],
)  # fmt: skip
def test_other_cursors_are_refused(cursor: object) -> None:
    text = frames.base64.urlsafe_b64encode(json.dumps(cursor).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidInput, match=r"^cursor: "):
        frames.cursor_from_text(text)


@pytest.mark.parametrize("text", ["", "a", "!!!!", "e30 ", "é", "e30=\n", "eyJlcG9jaCI6MX0\x00"])
def test_text_that_is_not_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^cursor: "):
        frames.cursor_from_text(text)
