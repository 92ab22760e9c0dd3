"""gateway/_fast/fanout over the extension and its twin, on real sessions; both agree on any sequence of calls."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import fanout as extension
from gateway._fast import session as sessions
from notification import limits
from notification.codes import Lane
from tests.reference import fanout as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import TEXT, frames, ident, live

LANE = Lane.AUDIENCE_MEDIUM
NOBODY = bytes(4)


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


class Socket:
    """A connection that keeps what it was told to write."""

    def __init__(self, session: Any, welcomed: bool = True) -> None:
        self.session = session
        self.welcomed = welcomed
        self.writes: list[list[bytes]] = []

    def flush(self) -> None:
        self.writes.append([payload for opcode, payload in frames(self.session.take()) if opcode == TEXT])


def resuming() -> Any:
    session = sessions.Session(0)
    session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 7, 0)
    return session


class Place:
    def __init__(self, module: Any, *sockets: Socket) -> None:
        self.nudged: list[Any] = []
        self.sockets = list(sockets)
        self.fanout = module.Fanout(self.nudged.append, lambda socket: socket.welcomed)

    def offer(
        self, seq: int, entitled: bytes | None = None, prev: int | None = None, body: bytes = b"{}"
    ) -> tuple[int, int]:
        before = seq - 1 if prev is None else prev
        count = len(self.sockets)
        done = self.fanout.offer(self.sockets, 0, count, LANE, seq, before, ident(seq), body, entitled)
        assert isinstance(done, tuple)
        return done

    def at(self) -> list[int]:
        return [socket.session.at()[LANE] for socket in self.sockets]


@both(extension, twin)
class TestCrowd:
    def test_joins_and_leaves(self, module: Any) -> None:
        crowd = module.Crowd()
        sockets = [Socket(live(sessions)) for _ in range(5)]
        for socket in sockets:
            crowd.join(socket)
        assert len(crowd) == 5
        for index in (1, 0, 4):
            assert crowd.leave(sockets[index]) is True
            assert crowd.leave(sockets[index]) is False
        assert {id(one) for one in crowd.connections()} == {id(sockets[2]), id(sockets[3])}
        crowd.join(sockets[0])
        assert len(crowd) == 3
        assert [crowd.leave(socket) for socket in sockets] == [True, False, True, True, False]
        assert (len(crowd), crowd.connections()) == (0, [])

    def test_connections_is_a_copy(self, module: Any) -> None:
        crowd = module.Crowd()
        crowd.join(Socket(live(sessions)))
        crowd.connections().clear()
        assert len(crowd) == 1

    def test_a_stranger_was_not_there(self, module: Any) -> None:
        crowd = module.Crowd()
        assert crowd.leave(Socket(live(sessions))) is False
        crowd.join(Socket(live(sessions)))
        assert crowd.leave(Socket(live(sessions))) is False
        assert len(crowd) == 1


@both(extension, twin)
class TestFanout:
    def test_everybody_has_it_in_one_write_each(self, module: Any) -> None:
        place = Place(module, *(Socket(live(sessions)) for _ in range(3)))
        assert (place.offer(1, body=b"1"), place.offer(2, body=b"2")) == ((3, 0), (3, 0))
        assert [socket.writes for socket in place.sockets] == [[]] * 3
        place.fanout.flush()
        place.fanout.flush()
        assert [socket.writes for socket in place.sockets] == [[[b"1", b"2"]]] * 3
        assert place.sockets[0].session.ack(ident(2)) == (LANE, 2)

    def test_one_bit_per_connection_the_first_is_the_highest(self, module: Any) -> None:
        place = Place(module, *(Socket(live(sessions)) for _ in range(10)))
        assert place.offer(1, b"\x80\x40") == (2, 8)
        place.fanout.flush()
        assert [index for index, socket in enumerate(place.sockets) if socket.writes] == [0, 9]
        assert place.at() == [1] * 10
        assert place.nudged == []

    def test_bits_count_from_the_start_of_the_slice(self, module: Any) -> None:
        place = Place(module, *(Socket(live(sessions)) for _ in range(4)))
        assert place.fanout.offer(place.sockets, 2, 3, LANE, 1, 0, ident(1), b"{}", b"\x80") == (1, 0)
        assert place.at() == [0, 0, 1, 0]

    def test_who_is_passed_over_has_nothing_in_its_window_and_goes_on(self, module: Any) -> None:
        place = Place(module, Socket(live(sessions)))
        assert place.offer(1, NOBODY) == (0, 1)
        assert (place.sockets[0].session.unacked(), place.sockets[0].session.pending()) == (0, 0)
        assert place.offer(2) == (1, 0)

    @pytest.mark.parametrize("entitled", [None, NOBODY])
    def test_who_lacks_something_before_it_wants_a_fill(self, module: Any, entitled: bytes | None) -> None:
        behind = Socket(live(sessions))
        place = Place(module, behind, Socket(live(sessions, at=4)))
        assert sum(place.offer(5, entitled)) == 1
        assert (place.nudged, behind.session.wanted(), place.at()) == ([behind], True, [0, 5])

    @pytest.mark.parametrize("entitled", [None, NOBODY])
    def test_who_resumes_wants_it(self, module: Any, entitled: bytes | None) -> None:
        place = Place(module, Socket(resuming()))
        assert place.offer(1, entitled) == (0, 0)
        assert (place.nudged, place.at()) == (place.sockets, [-1])
        assert place.sockets[0].session.wanted()

    def test_who_knows_nothing_of_the_lane_wants_it(self, module: Any) -> None:
        place = Place(module, Socket(live(sessions, at=-1)))
        assert place.offer(1, NOBODY, prev=0) == (0, 0)
        assert place.sockets[0].session.wanted()

    def test_what_one_has_is_not_written_twice(self, module: Any) -> None:
        place = Place(module, Socket(live(sessions)))
        place.offer(1)
        place.fanout.flush()
        assert place.offer(1) == (0, 0)
        assert place.sockets[0].session.pending() == 0

    def test_who_did_not_authenticate_or_closes_is_left_alone(self, module: Any) -> None:
        closing, gone = live(sessions), live(sessions)
        closing.close(1000, "")
        gone.end()
        place = Place(module, *(Socket(session) for session in (sessions.Session(0), closing, gone)))
        place.sockets[1].session.take()
        assert (place.offer(1), place.offer(2, NOBODY), place.nudged) == ((0, 0), (0, 0), [])
        place.fanout.send(place.sockets, 0, 3, b"state", None)
        assert [socket.session.pending() for socket in place.sockets] == [0, 0, 0]

    def test_a_full_window_waits_and_is_passed_over_all_the_same(self, module: Any) -> None:
        place = Place(module, Socket(live(sessions)))
        for seq in range(1, limits.UNACKED_PER_CONNECTION_MAX + 1):
            assert place.offer(seq) == (1, 0)
        past = limits.UNACKED_PER_CONNECTION_MAX + 1
        assert place.offer(past, NOBODY) == (0, 1)
        assert place.offer(past + 1) == (0, 0)
        assert (place.nudged, place.at()) == (place.sockets, [past])

    def test_much_for_one_connection_goes_out_in_pieces(self, module: Any) -> None:
        place = Place(module, Socket(live(sessions)))
        for seq in range(1, 11):
            place.offer(seq, body=b"x" * (limits.WRITE_BUFFER_BYTES_MAX // 4))
        place.fanout.flush()
        writes = place.sockets[0].writes
        assert (sum(map(len, writes)), max(map(len, writes))) == (10, 4)

    def test_frames_outside_lanes_go_to_whom_was_welcomed_and_is_entitled(self, module: Any) -> None:
        place = Place(
            module, Socket(live(sessions)), Socket(live(sessions), welcomed=False), Socket(live(sessions))
        )
        place.fanout.send(place.sockets, 0, 3, b"state", b"\xc0")
        place.fanout.flush()
        assert [socket.writes for socket in place.sockets] == [[[b"state"]], [], []]
        place.fanout.send(place.sockets, 0, 3, b"more", None)
        place.fanout.flush()
        assert [socket.writes[-1:] for socket in place.sockets] == [[[b"more"]], [], [[b"more"]]]

    def test_what_does_not_fit_together_is_our_fault(self, module: Any) -> None:
        sockets = [Socket(live(sessions)) for _ in range(9)]
        offer = Place(module).fanout.offer
        for start, stop, lane, name, entitled in (
            (0, 10, LANE, ident(1), None), (-1, 2, LANE, ident(1), None), (3, 2, LANE, ident(1), None),
            (0, 9, LANE, ident(1), b"\xff"), (0, 9, 6, ident(1), None), (0, 9, -1, ident(1), None),
            (0, 9, LANE, b"short", None),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"slice|bits|malformed"):
                offer(sockets, start, stop, lane, 1, 0, name, b"{}", entitled)
        assert [socket.session.at()[LANE] for socket in sockets] == [0] * 9


_CALLS = st.lists(
    st.tuples(
        st.integers(1, 9), st.integers(0, 8), st.sampled_from([None, b"\xf0", b"\xa0", b"\x00"]), st.booleans()
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(_CALLS)
def test_extension_and_twin_agree(calls: list[tuple[int, int, bytes | None, bool]]) -> None:
    outcomes: list[Any] = []
    for module in (extension, twin):
        place = Place(
            module, Socket(live(sessions)), Socket(live(sessions, at=3)), Socket(resuming()),
            Socket(live(sessions), welcomed=False),
        )  # fmt: skip
        done: list[Any] = []
        for seq, prev, entitled, item in calls:
            if item:
                done.append(place.offer(seq, entitled, prev))
            else:
                place.fanout.send(place.sockets, 0, 4, b"%d" % seq, entitled)
        place.fanout.flush()
        seen = [(one.writes, one.session.at(), one.session.unacked()) for one in place.sockets]
        wanted = [one.session.wanted() for one in place.sockets]
        outcomes.append((done, seen, wanted, [place.sockets.index(one) for one in place.nudged]))
    assert outcomes[0] == outcomes[1]
