"""gateway/_fast/router over the extension and its twin, on real sessions; both agree on any batch."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import router as extension
from gateway._fast import session as sessions
from gateway._fast.registry import Registry
from notification import batch, limits
from notification.batch import CONTROL, NOTIFICATION, Item
from notification.codes import LANE_COUNT, ReceiptCode
from tests.reference import router as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import LANE, TEXT, frames, ident, live

ANN, BOB = b"t:YW5u", b"t:Ym9i"


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)
    assert extension.HEAD_BYTES == batch.ITEM_OVERHEAD_BYTES


class Socket:
    """A connection that keeps what it was told to write."""

    def __init__(self, session: Any, welcomed: bool = True) -> None:
        self.session = session
        self.welcomed = welcomed
        self.writes: list[list[bytes]] = []

    def flush(self) -> None:
        self.writes.append([payload for opcode, payload in frames(self.session.take()) if opcode == TEXT])


class Place:
    """A router with the connections it routes to."""

    def __init__(self, module: Any, *held: tuple[bytes, Socket]) -> None:
        self.nudged: list[Any] = []
        self.registry: Any = Registry()
        for tag, socket in held:
            self.registry.add(tag, socket)
        self.router = module.Router(self.registry, self.nudged.append, lambda socket: socket.welcomed)

    def route(self, *items: Item, database_ms: int = 1_000, draining: bool = False) -> tuple[list[int], int, int]:
        message = batch.pack(items, 0)
        codes, written, refused = self.router.route(
            message, batch.OVERHEAD_BYTES, len(items), database_ms, draining
        )
        assert isinstance(codes, bytes)
        self.router.flush()
        return list(codes), written, refused


def item(seq: int, tag: bytes = ANN, body: bytes = b"{}", **fields: Any) -> Item:
    values = {"kind": NOTIFICATION, "lane": LANE, "attempt": 1, "prev": seq - 1, "expiry_ms": 0, "id": ident(seq)}
    return Item(**{**values, **fields}, seq=seq, tag=tag, body=body)  # type: ignore[arg-type]


@both(extension, twin)
class TestRouter:
    def test_one_write_per_connection_and_batch(self, module: Any) -> None:
        ann, bob = Socket(live(sessions)), Socket(live(sessions))
        place = Place(module, (ANN, ann), (BOB, bob))
        assert place.route(item(1, body=b"1"), item(1, BOB, b"2"), item(2, body=b"3"), item(1, b"t:nobody")) == (
            [ReceiptCode.WRITTEN, ReceiptCode.WRITTEN, ReceiptCode.WRITTEN, ReceiptCode.NO_CONNECTION], 3, 0,
        )  # fmt: skip
        assert (ann.writes, bob.writes) == ([[b"1", b"3"]], [[b"2"]])

    def test_batches_before_a_flush_share_a_write(self, module: Any) -> None:
        ann, bob = Socket(live(sessions)), Socket(live(sessions))
        place = Place(module, (ANN, ann), (BOB, bob))
        for one in (item(1, body=b"1"), item(2, body=b"2"), item(1, BOB)):
            assert place.router.route(batch.pack([one], 0), batch.OVERHEAD_BYTES, 1, 1_000, False) == (b"\0", 1, 0)
        assert (ann.writes, bob.writes) == ([], [])
        place.router.flush()
        place.router.flush()
        assert (ann.writes, bob.writes) == ([[b"1", b"2"]], [[b"{}"]])

    def test_every_device_of_a_user(self, module: Any) -> None:
        devices = [Socket(live(sessions)) for _ in range(3)]
        place = Place(module, *[(ANN, device) for device in devices])
        assert place.route(item(1)) == ([ReceiptCode.WRITTEN], 3, 0)
        assert [device.writes for device in devices] == [[[b"{}"]]] * 3

    def test_only_who_is_authenticated_and_open_takes_items(self, module: Any) -> None:
        early, gone, resuming = (Socket(sessions.Session(0)) for _ in range(3))
        gone.session.end()
        resuming.session.authenticate("t", "u", "d", bytes(16), ANN, 1, 0)
        place = Place(module, (ANN, early), (ANN, gone))
        assert place.route(item(1)) == ([ReceiptCode.NO_CONNECTION], 0, 0)
        place = Place(module, (ANN, early), (ANN, resuming))
        assert place.route(item(1)) == ([ReceiptCode.FULL], 0, 0)
        assert (place.nudged, resuming.session.wanted()) == ([resuming], True)

    def test_a_gap_is_full_and_the_policy_hears_of_it(self, module: Any) -> None:
        ann = Socket(live(sessions))
        place = Place(module, (ANN, ann))
        assert place.route(item(3), item(1, lane=0)) == ([ReceiptCode.FULL, ReceiptCode.WRITTEN], 1, 0)
        assert place.nudged == [ann]

    def test_one_device_behind_and_one_not(self, module: Any) -> None:
        ready, behind = Socket(live(sessions, at=1)), Socket(live(sessions))
        place = Place(module, (ANN, ready), (ANN, behind))
        assert place.route(item(2)) == ([ReceiptCode.WRITTEN], 1, 0)
        assert (place.nudged, behind.writes) == ([behind], [])

    def test_a_draining_process_says_stale(self, module: Any) -> None:
        place = Place(module, (ANN, Socket(live(sessions))))
        assert place.route(item(1), item(1, BOB), draining=True)[0] == [ReceiptCode.WRITTEN, ReceiptCode.STALE]

    def test_expiry(self, module: Any) -> None:
        place = Place(module, (ANN, Socket(live(sessions))))
        items = [item(1, expiry_ms=1_001), item(2, expiry_ms=1_000), item(2), item(3, expiry_ms=2**64 - 1)]
        assert place.route(*items)[0] == [
            ReceiptCode.WRITTEN, ReceiptCode.EXPIRED, ReceiptCode.WRITTEN, ReceiptCode.WRITTEN,
        ]  # fmt: skip

    def test_a_retry_is_known_by_its_attempt(self, module: Any) -> None:
        ann = Socket(live(sessions, at=5))
        place = Place(module, (ANN, ann))
        assert place.route(item(4), item(5, attempt=2)) == ([ReceiptCode.WRITTEN] * 2, 2, 0)
        assert ann.session.unacked() == 1

    def test_control_items_go_to_whom_was_welcomed(self, module: Any) -> None:
        old, new = Socket(live(sessions)), Socket(live(sessions), welcomed=False)
        place = Place(module, (ANN, old), (ANN, new))
        assert place.route(item(9, kind=CONTROL, lane=99, body=b"state")) == ([ReceiptCode.WRITTEN], 0, 0)
        assert (old.writes, new.writes) == ([[b"state"]], [])

    @pytest.mark.parametrize("fields", [{"lane": LANE_COUNT}, {"lane": 255}, {"prev": 2**63}])
    def test_what_no_lane_can_hold_is_refused(self, module: Any, fields: dict[str, int]) -> None:
        place = Place(module, (ANN, Socket(live(sessions))))
        assert place.route(item(1, **fields), item(1)) == ([ReceiptCode.FULL, ReceiptCode.WRITTEN], 1, 1)

    def test_much_for_one_connection_goes_out_in_pieces(self, module: Any) -> None:
        ann = Socket(live(sessions))
        place = Place(module, (ANN, ann))
        size = limits.WRITE_BUFFER_BYTES_MAX // 4
        place.route(*[item(seq, body=b"x" * size) for seq in range(1, 11)])
        assert sum(map(len, ann.writes)) == 10
        assert max(map(len, ann.writes)) <= 5

    def test_a_message_that_does_not_add_up_changes_nothing(self, module: Any) -> None:
        ann = Socket(live(sessions))
        place = Place(module, (ANN, ann))
        message = batch.pack([item(1), item(2)], 0)
        for bad, count in ((message, 1), (message, 3), (message[:-1], 2), (message + b"x", 2), (message[:30], 1)):
            assert place.router.route(bad, batch.OVERHEAD_BYTES, count, 0, False) is None
        assert (ann.writes, ann.session.pending()) == ([], 0)


_ITEMS = st.lists(
    st.builds(
        Item, kind=st.sampled_from([0, 0, 0, 0, 1, 2]), lane=st.integers(0, 7), attempt=st.integers(0, 3),
        seq=st.integers(0, 8) | st.integers(0, 2**64 - 1), prev=st.integers(0, 8), id=st.integers(0, 9).map(ident),
        expiry_ms=st.sampled_from([0, 0, 0, 999, 1_000, 1_001]), tag=st.sampled_from([ANN, BOB, b"", b"t:eve"]),
        body=st.binary(max_size=200),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_ITEMS, st.integers(-1, 2), st.binary(max_size=3), st.booleans())
def test_extension_and_twin_agree(items: list[Item], more: int, noise: bytes, draining: bool) -> None:
    message, count = batch.pack(items, 0) + noise, max(0, len(items) + (more if noise else 0))
    outcomes = []
    for module in (extension, twin):
        sockets = [Socket(live(sessions)), Socket(live(sessions, at=2)), Socket(live(sessions), welcomed=False)]
        place = Place(module, (ANN, sockets[0]), (ANN, sockets[1]), (BOB, sockets[2]))
        routed = place.router.route(message, batch.OVERHEAD_BYTES, count, 1_000, draining)
        place.router.flush()
        seen = [(socket.writes, socket.session.at(), socket.session.unacked()) for socket in sockets]
        outcomes.append((routed, seen, [sockets.index(one) for one in place.nudged]))
    assert outcomes[0] == outcomes[1]
