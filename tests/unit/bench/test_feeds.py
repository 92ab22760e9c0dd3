"""bench/feeds.py: the files of the load generator hold what Herald's own codecs read."""

import struct
import uuid
from pathlib import Path

import jwt
import msgspec
import pytest

from bench import feeds
from notification import batch
from notification.frames import Notification, decode_server
from notification.limits import BUS_BATCH_BYTES_MAX
from notification.messages import (
    LANES_UNKNOWN,
    FillReply,
    FillRequest,
    FillsReply,
    FillsRequest,
    decode_reply,
    encode,
)

SECRET = b"0123456789abcdef0123456789abcdef"


def test_users_take_turns_and_each_lane_is_without_a_gap() -> None:
    numbered = list(feeds.in_turn(3, 12, burst=2))
    assert [one.user for one in numbered] == [0, 0, 1, 1, 2, 2] * 2
    assert [one.number for one in numbered] == list(range(12))
    assert [one.seq for one in numbered if one.user == 1] == [1, 2, 3, 4]


def test_a_feed_file_holds_batches_of_the_bus(tmp_path: Path) -> None:
    items = [feeds.item_of(one, 512) for one in feeds.in_turn(2, 5)]
    feeds.write_feed(tmp_path / "feed", "a.subject", items, 3)
    data = (tmp_path / "feed").read_bytes()
    found = []
    at = 0
    while at < len(data):
        subject_bytes, count, first, size = struct.unpack_from("!HHII", data, at)
        at += 12
        assert data[at : at + subject_bytes] == b"a.subject"
        at += subject_bytes
        _, unpacked = batch.unpack(data[at : at + size])
        assert (first, len(unpacked)) == (len(found), count)
        found += unpacked
        at += size
    assert found == items


def test_an_item_carries_its_number_in_the_id_and_a_whole_frame() -> None:
    item = feeds.item_of(feeds.Numbered(0xABCDEF, 7, 3), 512)
    frame = decode_server(item.body)
    assert isinstance(frame, Notification)
    assert frame.id == str(uuid.UUID(bytes=item.id))
    assert frame.id.endswith("00abcdef")
    assert (item.seq, item.prev, item.tag.decode()) == (3, 2, feeds.tag_of(7))
    assert abs(len(item.body) - 512) < 40


def test_a_batch_over_the_limit_is_refused() -> None:
    items = [feeds.item_of(one, 4_096) for one in feeds.in_turn(1, BUS_BATCH_BYTES_MAX // 4_096 + 1)]
    with pytest.raises(ValueError, match="fewer or smaller"):
        feeds.record("s", items, 0)


def test_a_head_is_a_request_with_a_token_of_its_own(tmp_path: Path) -> None:
    feeds.write_heads(tmp_path / "heads", [5, 6], "phone", SECRET)
    data = (tmp_path / "heads").read_bytes()
    seen = set()
    for number in (5, 6):
        count = int.from_bytes(data[:2])
        head, data = data[2 : 2 + count].decode(), data[2 + count :]
        lines = head.split("\r\n")
        assert lines[0].startswith("GET /ws/connect?device=phone HTTP/1.1")
        assert lines[-2:] == ["", ""]
        fields = dict(line.split(": ", 1) for line in lines[1:-2])
        claims = jwt.decode(fields["Authorization"].removeprefix("Bearer "), SECRET, ["HS256"], audience="herald")
        assert claims["sub"] == feeds.user_name(number)
        assert fields[feeds.TAG_HEADER] == feeds.tag_of(number)
        seen.add(claims["jti"])
    assert data == b""
    assert len(seen) == 2


def test_the_ledger_tells_lost_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    feeds.write_ledger(path, 4)
    assert feeds.read_ledger(path) == feeds.Ledger(lost=4, repeated=0)
    path.write_bytes(b"".join(struct.pack("=QII", 1, times, 0) for times in (1, 0, 3, 1)))
    assert feeds.read_ledger(path) == feeds.Ledger(lost=1, repeated=1)


def test_the_empty_fill_ends_in_its_time(tmp_path: Path) -> None:
    """The load generator overwrites the last eight bytes, and repeats it behind the head of the questions."""
    feeds.write_empty_fill(tmp_path / "fill")
    renewed = (tmp_path / "fill").read_bytes()[:-8] + (1_795_467_160_000).to_bytes(8)
    question = FillRequest("bench", "u0", True, None, LANES_UNKNOWN, 1)
    request = encode(FillsRequest([question]))
    head = request[: -len(msgspec.msgpack.encode(question))]
    replies = decode_reply(head + renewed)
    assert isinstance(replies, FillsReply)
    [reply] = replies.replies
    assert isinstance(reply, FillReply)
    assert reply.database_ms == 1_795_467_160_000
    assert (reply.items, reply.more, reply.recovered) == ([], False, True)
    assert msgspec.msgpack.decode(renewed)[0] == "filled"
