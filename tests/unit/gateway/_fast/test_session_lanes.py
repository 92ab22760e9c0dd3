"""gateway/_fast/session over the extension and its twin: lanes, window, acks; and that both agree on anything."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import session as extension
from notification import limits
from notification.codes import LANE_COUNT, Lane
from tests.reference import session as twin
from tests.unit.gateway._fast.extensions import both
from tests.unit.gateway._fast.sessions import CLOSE, CONTINUATION, LANE, PING, PONG, TEXT, frames, ident, live


@both(extension, twin)
class TestLanes:
    def test_live_items_in_order_are_written(self, module: Any) -> None:
        session = live(module)
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.WRITTEN
        assert session.offer(LANE, 4, 1, ident(4), b"four") == module.WRITTEN
        assert list(frames(session.take())) == [(TEXT, b"one"), (TEXT, b"four")]
        assert (session.at()[LANE], session.wanted(), session.unacked()) == (4, False, 2)

    def test_a_gap_stops_its_lane_only(self, module: Any) -> None:
        session = live(module)
        assert session.offer(LANE, 3, 2, ident(3), b"three") == module.FULL
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.FULL  # order: the fill brings it
        assert session.offer(Lane.DIRECT_HIGH, 1, 0, ident(9), b"high") == module.WRITTEN
        assert session.wanted() is True
        assert list(frames(session.take())) == [(TEXT, b"high")]
        for seq in (1, 2, 3):
            assert session.fill(LANE, seq, seq - 1, ident(seq), b"%d" % seq) is True
        assert session.wanted() is False
        assert list(frames(session.take())) == [(TEXT, b"1"), (TEXT, b"2"), (TEXT, b"3")]
        assert session.offer(LANE, 4, 3, ident(4), b"4") == module.WRITTEN

    def test_what_expired_in_a_gap_is_passed_by_advance(self, module: Any) -> None:
        session = live(module)
        assert session.offer(LANE, 3, 2, ident(3), b"three") == module.FULL
        session.advance(LANE, 5)
        assert (session.wanted(), session.at()[LANE]) == (False, 5)
        session.advance(LANE, 2)
        assert session.at()[LANE] == 5
        assert session.offer(LANE, 6, 5, ident(6), b"six") == module.WRITTEN

    def test_a_lane_of_which_nothing_is_known_needs_a_fill(self, module: Any) -> None:
        session = live(module, at=-1)
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.FULL
        assert session.wanted() is True
        assert session.fill(LANE, 1, 0, ident(1), b"one") is True
        assert session.wanted() is False

    def test_resuming_notes_and_does_not_write(self, module: Any) -> None:
        session = module.Session(0)
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.FULL
        assert (session.wanted(), session.fill(LANE, 1, 0, ident(1), b"one")) == (False, False)  # no identity yet
        session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 7, 0)
        session.set_at(LANE, 0)
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.FULL
        assert (session.wanted(), session.pending()) == (True, 0)
        assert session.fill(LANE, 1, 0, ident(1), b"one") is True
        session.begin_live()
        assert session.wanted() is False
        assert session.offer(LANE, 1, 0, ident(1), b"one again") == module.WRITTEN
        assert session.offer(LANE, 2, 1, ident(2), b"two") == module.WRITTEN

    def test_a_retry_is_written_again_while_unacked(self, module: Any) -> None:
        session = live(module)
        session.offer(LANE, 1, 0, ident(1), b"one")
        session.offer(LANE, 2, 1, ident(2), b"two")
        session.take()
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.WRITTEN
        assert list(frames(session.take())) == [(TEXT, b"one")]
        assert session.unacked() == 2
        session.ack(ident(1))
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.WRITTEN
        assert session.pending() == 0
        assert session.at()[LANE] == 2

    def test_a_retry_below_the_cursor_asks_for_the_lost_ack(self, module: Any) -> None:
        session = live(module, at=5)
        assert session.offer(LANE, 4, 3, ident(4), b"four") == module.WRITTEN
        assert session.pending() == 0  # a first send that the cursor covers
        assert session.offer(LANE, 4, 3, ident(4), b"four", True) == module.WRITTEN
        assert list(frames(session.take())) == [(TEXT, b"four")]
        assert session.at()[LANE] == 5
        assert session.ack(ident(4)) == (LANE, 4)

    def test_a_fill_skips_what_is_there(self, module: Any) -> None:
        session = live(module, at=5)
        assert session.fill(LANE, 5, 4, ident(5), b"five") is True
        assert (session.pending(), session.unacked()) == (0, 0)

    def test_a_full_window_waits_in_the_log(self, module: Any) -> None:
        session = live(module)
        most = limits.UNACKED_PER_CONNECTION_MAX
        for seq in range(1, most + 1):
            assert session.window_free() == most - seq + 1
            assert session.offer(LANE, seq, seq - 1, ident(seq), b"{}") == module.WRITTEN
        assert (session.window_free(), session.unacked()) == (0, most)
        session.take()
        assert session.offer(LANE, most + 1, most, ident(most + 1), b"{}") == module.FULL
        assert session.fill(LANE, most + 1, most, ident(most + 1), b"{}") is False
        assert (session.pending(), session.wanted()) == (0, True)
        assert session.offer(LANE, 1, 0, ident(1), b"{}") == module.WRITTEN  # a retry needs no new place
        assert session.pending() > 0
        session.ack(ident(7))
        assert session.offer(LANE, most + 2, most + 1, ident(most + 2), b"{}") == module.FULL  # never out of order
        assert session.fill(LANE, most + 1, most, ident(most + 1), b"{}") is True
        assert session.at()[LANE] == most + 1

    def test_blocked_by_the_carrier(self, module: Any) -> None:
        session = live(module)
        session.offer(LANE, 1, 0, ident(1), b"one")
        session.take()
        session.blocked = True
        assert session.window_free() == 0
        assert session.offer(LANE, 1, 0, ident(1), b"one") == module.WRITTEN  # its first copy is still on the way
        assert session.offer(LANE, 2, 1, ident(2), b"two") == module.FULL
        assert session.fill(LANE, 2, 1, ident(2), b"two") is False
        assert (session.pending(), session.wanted()) == (0, True)
        session.blocked = False
        assert session.fill(LANE, 2, 1, ident(2), b"two") is True
        assert session.wanted() is False

    @pytest.mark.parametrize("lane", [-1, LANE_COUNT, 200])
    def test_a_lane_that_is_none(self, module: Any, lane: int) -> None:
        session = live(module)
        item = (1, 0, ident(1), b"")
        for name, arguments in (("offer", item), ("fill", item), ("advance", (1,)), ("set_at", (1,))):
            with pytest.raises(ValueError, match="lane"):
                getattr(session, name)(lane, *arguments)

    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_an_id_of_another_size(self, module: Any, size: int) -> None:
        session = live(module)
        with pytest.raises(ValueError, match="16 bytes"):
            session.offer(LANE, 1, 0, b"x" * size, b"")
        with pytest.raises(ValueError, match="16 bytes"):
            session.fill(LANE, 1, 0, b"x" * size, b"")
        assert session.ack(b"x" * size) is None
        assert session.ack_upto(b"x" * size) is None


@both(extension, twin)
class TestOrderOfTheWire:
    """HIGH overtakes what is not on the wire yet, and the window knows."""

    HIGH, MEDIUM, LOW = Lane.DIRECT_HIGH, Lane.DIRECT_MEDIUM, Lane.AUDIENCE_LOW

    def queued(self, module: Any) -> Any:
        """LOW 1 and 2, MEDIUM 3, HIGH 4 and a control frame, offered in this order."""
        session = live(module)
        for lane, seq, number in ((self.LOW, 1, 1), (self.LOW, 2, 2), (self.MEDIUM, 1, 3), (self.HIGH, 1, 4)):
            assert session.offer(lane, seq, seq - 1, ident(number), b"<%d>" % number) == module.WRITTEN
        session.send(b"control")
        return session

    def test_by_class(self, module: Any) -> None:
        session = self.queued(module)
        heard = [payload for _, payload in frames(session.take())]
        assert heard == [b"control", b"<4>", b"<3>", b"<1>", b"<2>"]
        assert [one[0] for one in session.ack_upto(ident(1))] == [ident(4), ident(3), ident(1)]
        assert session.unacked() == 1

    def test_a_frame_partly_on_the_wire_is_finished_first(self, module: Any) -> None:
        session = live(module)
        session.offer(self.LOW, 1, 0, ident(1), b"<1>")
        session.offer(self.LOW, 2, 1, ident(2), b"<2>")
        taken = session.take(1)
        session.offer(self.HIGH, 1, 0, ident(3), b"<3>")
        session.offer(self.HIGH, 2, 1, ident(4), b"<4>")
        taken += session.take(8)  # the rest of 1, and a part of 3
        session.offer(self.MEDIUM, 1, 0, ident(5), b"<5>")
        taken += session.take(1)
        assert session.ack_upto(ident(4)) is None
        assert [one[0] for one in session.ack_upto(ident(3))] == [ident(1), ident(3)]
        session.send(b"control")
        taken += session.take()
        heard = [payload for _, payload in frames(taken)]
        assert heard == [b"<1>", b"<3>", b"control", b"<4>", b"<5>", b"<2>"]
        assert [one[0] for one in session.ack_upto(ident(2))] == [ident(4), ident(5), ident(2)]

    def test_nothing_overtakes_what_was_written(self, module: Any) -> None:
        session = self.queued(module)
        session.take()
        session.offer(self.HIGH, 2, 1, ident(9), b"<9>")
        session.take()
        assert [one[0] for one in session.ack_upto(ident(2))] == [ident(4), ident(3), ident(1), ident(2)]
        assert [one[0] for one in session.ack_upto(ident(9))] == [ident(9)]

    def test_last_is_behind_everything(self, module: Any) -> None:
        session = self.queued(module)
        session.send(b"resumed", last=True)
        session.offer(self.LOW, 3, 2, ident(5), b"<5>")
        session.offer(self.HIGH, 2, 1, ident(6), b"<6>")
        session.close(1012, "")
        assert [payload for _, payload in frames(session.take())] == [
            b"control", b"<4>", b"<6>", b"<3>", b"<1>", b"<2>", b"<5>", b"resumed", struct.pack("!H", 1012),
        ]  # fmt: skip

    def test_a_copy_does_not_overtake_what_waits(self, module: Any) -> None:
        session = self.queued(module)
        assert session.offer(self.LOW, 2, 1, ident(2), b"<2 again>", True) == module.WRITTEN
        assert b"again" not in session.take()
        assert session.offer(self.LOW, 2, 1, ident(2), b"<2 again>", True) == module.WRITTEN
        assert b"again" in session.take()

    def test_an_ack_of_what_waits_frees_its_place(self, module: Any) -> None:
        """The device had it before, on another connection."""
        session = self.queued(module)
        assert session.ack(ident(1)) == (self.LOW, 1)
        session.offer(self.HIGH, 2, 1, ident(6), b"<6>")
        session.take()
        found = session.ack_upto(ident(2))
        assert [one[0] for one in found] == [ident(4), ident(6), ident(3), ident(2)]

    def test_our_close_is_sent_when_its_last_byte_is(self, module: Any) -> None:
        session = self.queued(module)
        session.close(1012, "")
        session.take(session.pending() - 1)
        assert (session.close_sent, session.pending()) == (False, 1)
        session.take()
        assert session.close_sent is True

    def test_pongs_leave_first_and_count_until_they_do(self, module: Any) -> None:
        session = self.queued(module)
        session.feed(PING, True, 0, b"!", 0)
        taken = session.take(9 + 3)
        assert list(frames(taken))[-1] == (PONG, b"!")


@both(extension, twin)
class TestPutBack:
    """What a full socket did not take goes back to the log: it may have expired, or been replaced."""

    HIGH, LOW = Lane.DIRECT_HIGH, Lane.DIRECT_LOW

    def full(self, module: Any) -> Any:
        """LOW 1 is on the wire, of LOW 2 a part; LOW 3, HIGH 1, control and a last frame wait."""
        session = live(module)
        for seq in (1, 2):
            session.offer(self.LOW, seq, seq - 1, ident(seq), b"<%d>" % seq)
        assert list(frames(session.take(5))) == [(TEXT, b"<1>")]
        self.part = session.take(2)
        session.offer(self.LOW, 3, 2, ident(3), b"<3>")
        session.offer(self.HIGH, 1, 0, ident(11), b"high")
        session.send(b"control")
        session.send(b"state", last=True)
        return session

    def test_what_is_not_begun_goes_back_and_is_wanted(self, module: Any) -> None:
        session = self.full(module)
        session.put_back()
        assert (session.at()[self.LOW], session.at()[self.HIGH], session.unacked()) == (2, 0, 2)
        assert session.wanted() is True
        heard = [payload for _, payload in frames(self.part + session.take())]
        assert heard == [b"<2>", b"control", b"state"]
        assert (session.pending(), session.ack(ident(3)), session.ack(ident(2))) == (0, None, (self.LOW, 2))
        assert session.offer(self.LOW, 3, 2, ident(3), b"<3>") == module.FULL  # the log knows better
        assert session.fill(self.HIGH, 1, 0, ident(11), b"high") is True
        session.advance(self.LOW, 3)
        assert session.wanted() is False
        assert session.offer(self.LOW, 4, 3, ident(4), b"<4>") == module.WRITTEN
        assert [payload for _, payload in frames(session.take())] == [b"high", b"<4>"]

    def test_where_nothing_waits_nothing_happens(self, module: Any) -> None:
        session = live(module)
        session.put_back()
        session.offer(LANE, 1, 0, ident(1), b"one")
        session.take()
        session.put_back()
        assert (session.at()[LANE], session.wanted(), session.unacked(), session.pending()) == (1, False, 1, 0)

    def test_a_repeat_moves_no_lane(self, module: Any) -> None:
        """The client's cursor has it: it was asked for its ack, and will be again."""
        session = live(module, at=7)
        session.offer(LANE, 4, 3, ident(4), b"four", True)
        session.put_back()
        assert (session.at()[LANE], session.wanted(), session.unacked(), session.pending()) == (7, False, 0, 0)

    def test_a_second_copy_goes_too(self, module: Any) -> None:
        session = live(module)
        session.offer(LANE, 1, 0, ident(1), b"one")
        session.take()
        session.offer(LANE, 1, 0, ident(1), b"one", True)
        session.put_back()
        assert (session.at()[LANE], session.wanted(), session.unacked(), session.pending()) == (1, False, 1, 0)


@both(extension, twin)
class TestAcks:
    def test_only_what_was_written_here_and_once(self, module: Any) -> None:
        session = live(module)
        assert session.ack(ident(1)) is None
        session.offer(LANE, 1, 0, ident(1), b"one")
        assert session.ack(ident(2)) is None
        assert session.ack(ident(1)) == (LANE, 1)
        assert session.ack(ident(1)) is None
        assert session.unacked() == 0

    def test_upto_is_in_write_order_over_all_lanes(self, module: Any) -> None:
        session = live(module)
        session.offer(LANE, 1, 0, ident(1), b"")
        session.offer(Lane.DIRECT_HIGH, 1, 0, ident(2), b"")
        session.offer(LANE, 2, 1, ident(3), b"")
        session.offer(LANE, 3, 2, ident(4), b"")
        session.ack(ident(1))
        assert session.ack_upto(ident(99)) is None
        assert session.ack_upto(ident(3)) is None  # nothing is written yet
        session.take()
        assert session.ack_upto(ident(3)) == [(ident(2), Lane.DIRECT_HIGH, 1), (ident(3), LANE, 2)]
        assert session.ack_upto(ident(3)) is None
        assert session.ack_upto(ident(4)) == [(ident(4), LANE, 3)]
        assert session.window_free() == limits.UNACKED_PER_CONNECTION_MAX

    def test_acks_in_any_order(self, module: Any) -> None:
        session = live(module)
        numbers = list(range(1, limits.UNACKED_PER_CONNECTION_MAX + 1))
        for seq in numbers:
            session.offer(LANE, seq, seq - 1, ident(seq), b"")
        for seq in numbers[1::2] + numbers[0::2][::-1]:
            assert session.ack(ident(seq)) == (LANE, seq)
        assert session.unacked() == 0
        assert session.offer(LANE, 257, 256, ident(257), b"") == module.WRITTEN


_OPCODES = st.sampled_from([TEXT] * 6 + [CONTINUATION] * 6 + [PING, PONG, PING, PONG, CLOSE, 0x2, 0x3, 0xB])
_FINS = st.sampled_from([True, True, False])
_PAYLOADS = st.one_of(
    st.sampled_from([b"", b"{}", b"\xe2\x82", b"\xac", b"\xed\xa0", b"\xf0\x9f", b"\x98\x80", b"x" * 126]),
    st.sampled_from([struct.pack("!I", number) for number in range(3)]),  # payloads of our pings
    st.sampled_from([b"x" * limits.FRAME_BYTES_MAX, "ü€😀".encode() * 40]),
    st.text(max_size=30).map(str.encode),
    st.binary(max_size=30),
    st.integers(0, 65_535).map(lambda code: struct.pack("!H", code) + b"bye"),
)
_LANES = st.integers(0, 2)
_SEQS = st.integers(0, 12)
_IDENTS = st.integers(0, 12).map(ident)
_STEPS = st.one_of(
    st.tuples(st.just("feed"), _OPCODES, _FINS, st.just(0), _PAYLOADS, st.just("now")),
    st.tuples(st.just("feed"), _OPCODES, _FINS, st.integers(0, 7), _PAYLOADS, st.just("now")),
    st.tuples(st.just("offer"), _LANES, _SEQS, _SEQS, _IDENTS, st.binary(max_size=140)),
    st.tuples(st.just("offer"), _LANES, st.just("next"), st.just("at"), _IDENTS, st.binary(max_size=140)),
    st.tuples(st.just("offer"), _LANES, _SEQS, _SEQS, _IDENTS, st.binary(max_size=140), st.booleans()),
    st.tuples(st.just("fill"), _LANES, _SEQS, _SEQS, _IDENTS, st.binary(max_size=140)),
    st.tuples(st.just("advance"), _LANES, _SEQS),
    st.tuples(st.just("set_at"), _LANES, st.integers(-1, 6)),
    st.tuples(st.just("ack"), _IDENTS),
    st.tuples(st.just("ack_upto"), _IDENTS),
    st.tuples(st.just("send"), st.binary(max_size=140)),
    st.tuples(st.just("ping"), st.just("now")),
    st.tuples(st.just("close"), st.sampled_from([1000, 1012, 4401, 1005]), st.text(max_size=90)),
    st.tuples(st.just("take"), st.integers(0, 300)),
    st.sampled_from([("take",), ("take",), ("put_back",), ("begin_live",), ("bad_frame",), ("end",), ("block",)]),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 7, 60, 900, 11_000, -5])),
)


def step(session: Any, now_ms: int, name: str, *arguments: Any) -> Any:
    """Do one step; the outcome, an error by its type and text."""
    if name == "block":
        session.blocked = not session.blocked
        return None
    at = session.at()[arguments[0]] if name == "offer" else 0
    known = {"now": now_ms, "at": at, "next": at + 1}
    values = [known[one] if isinstance(one, str) and one in known else one for one in arguments]
    try:
        return getattr(session, name)(*values)
    except (ValueError, OverflowError) as error:
        return type(error), str(error)


def state(session: Any) -> tuple[Any, ...]:
    return (
        session.phase, session.close_code, session.close_sent, session.close_received,
        session.at(), session.wanted(), session.window_free(), session.unacked(),
        session.pending(), session.pong_due_ms(), session.take_rtt_ms(),
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(_STEPS, max_size=60))
def test_extension_and_twin_agree(started: bool, steps: list[tuple[Any, ...]]) -> None:
    """Same answers, same state, same bytes after every step; and what is queued is always whole frames."""
    ours, theirs = (live(module) if started else module.Session(0) for module in (extension, twin))
    now_ms, written = 0, b""
    for name, *arguments in steps:
        if name == "wait":
            now_ms += arguments[0]
            continue
        outcome = step(ours, now_ms, name, *arguments)
        assert outcome == step(theirs, now_ms, name, *arguments)
        assert state(ours) == state(theirs)
        if name == "take":
            written += outcome
        elif name == "end":
            written = b""  # what was taken may end within a frame
    last = ours.take()
    assert last == theirs.take()
    written += last
    assert list(frames(written)) is not None
    assert state(ours) == state(theirs)


_OFFERS = st.tuples(st.just("offer"), st.integers(0, LANE_COUNT - 1), st.integers(0, 40))
_TAKES = st.tuples(st.just("take"), st.integers(0, 60), st.just(0))
_ACKED = st.tuples(st.just("ack"), st.integers(0, 40), st.just(0))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_OFFERS, _TAKES, _OFFERS, _ACKED), max_size=80))
def test_upto_means_what_was_on_the_wire_before(steps: list[tuple[str, int, int]]) -> None:
    """However writes, partial sends and acks mix, each lane is a prefix and upto takes exactly the wire's order."""
    session = live(extension)
    heads, lane_of, acked, data = [0] * LANE_COUNT, {}, set(), b""
    for name, value, size in steps:
        if name == "take":
            data += session.take(value)
        elif name == "ack":
            if session.ack(ident(value)) is not None:
                acked.add(value)
        else:
            heads[value] += 1
            number = len(lane_of) + 1
            lane_of[number] = value
            session.offer(value, heads[value], heads[value] - 1, ident(number), b"%d;%b" % (number, b"x" * size))
    data += session.take()
    wire = [int(payload.split(b";")[0]) for _, payload in frames(data)]
    for lane in range(LANE_COUNT):
        assert [one for one in wire if lane_of[one] == lane] == [one for one in lane_of if lane_of[one] == lane]
    left = [one for one in wire if one not in acked]
    if left:
        found = session.ack_upto(ident(left[-1]))
        assert [int.from_bytes(one[0], "big") for one in found] == left


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).map(str.encode) | st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_utf8_is_judged_as_python_judges_it(text: bytes, cuts: list[int]) -> None:
    """However a text is cut into fragments."""
    session: Any = extension.Session(0)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    heard = None
    for index, (first, last) in enumerate(itertools.pairwise(edges)):
        heard = session.feed(TEXT if index == 0 else CONTINUATION, index == len(edges) - 2, 0, text[first:last], 0)
    try:
        text.decode()
    except UnicodeDecodeError:
        assert (heard, session.close_code) == (None, 1007)
    else:
        assert (heard, session.close_code) == (text, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 20)), max_size=60))
def test_a_client_always_holds_a_prefix_of_the_lane(arrivals: list[tuple[int, bool, bool, int]]) -> None:
    """Bus items may be lost or come twice, sockets be full; with fills from the log nothing is skipped or out of
    order."""
    session = live(extension)
    head = 0
    data = b""
    for count, lost, twice, taken in arrivals:
        if taken % 2:
            data += session.take(taken)
            session.put_back()
        for _ in range(count):
            head += 1
            if not lost:
                for _ in range(1 + twice):
                    session.offer(LANE, head, head - 1, ident(head), b"%d" % head)
        if session.wanted():
            for seq in range(session.at()[LANE] + 1, head + 1):
                assert session.fill(LANE, seq, seq - 1, ident(seq), b"%d" % seq)
            assert not session.wanted()
    first = list(dict.fromkeys(int(body) for _, body in frames(data + session.take())))
    assert first == list(range(1, session.at()[LANE] + 1))
