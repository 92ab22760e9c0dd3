"""The ledger finds what it is there to find."""

import random
import time

import pytest

from notification.codes import Status
from tests.faults.ledger import Counts, DeviceName, Ledger, Place, Row, Sent
from tests.faults.nats_wire import Unreliable
from tests.proxy import Piece

ANN, BOB = ("t", "ann"), ("t", "bob")
PHONE = DeviceName(ANN, "phone")
LATER_MS = int(time.time() * 1_000) + 3_600_000


def ledger_of(*idents: str, expiry_ms: int = LATER_MS) -> Ledger:
    ledger = Ledger()
    for ident in idents:
        ledger.sent[ident] = Sent(ANN, time.monotonic(), expiry_ms)
    return ledger


def frame(ident: str, title: str = "t/ann", expires_at: int = LATER_MS) -> dict[str, object]:
    return {"id": ident, "expires_at": expires_at, "p": {"title": title}}


def row(ident: str, seq: int = 1, status: Status = Status.DELIVERED, expiry_ms: int = LATER_MS) -> Row:
    return Row(ident, ANN, 0, seq, status, expiry_ms)


def wrong(ledger: Ledger, *rows: Row) -> dict[str, int]:
    return ledger.judge(rows, 0.0, 1.0).wrong


def test_what_came_and_was_acked_is_right() -> None:
    ledger = ledger_of("a")
    ledger.take(PHONE, frame("a"), live=True)
    ledger.acked.add("a")
    assert wrong(ledger, row("a")) == {}
    assert ledger.judge([row("a")], 0.0, 1.0).received == 1


@pytest.mark.parametrize("rows", [[], [row("a", status=Status.PARKED)], [row("a", status=Status.DISPATCHED)]])
def test_an_id_that_never_came_is_lost(rows: list[Row]) -> None:
    assert wrong(ledger_of("a"), *rows) == {"lost": 1}


def test_an_id_that_expired_in_time_is_not_lost() -> None:
    assert wrong(ledger_of("a", expiry_ms=1), row("a", status=Status.EXPIRED)) == {}


def test_an_id_that_expired_before_its_time_is_lost() -> None:
    assert wrong(ledger_of("a"), row("a", status=Status.EXPIRED)) == {"lost": 1}


def test_an_id_that_nobody_sent_is_foreign() -> None:
    ledger = ledger_of()
    ledger.take(PHONE, frame("x"), live=True)
    assert wrong(ledger) == {"foreign": 1}


def test_the_notification_of_another_user_is_foreign() -> None:
    ledger = ledger_of("a")
    ledger.take(DeviceName(BOB, "phone"), frame("a"), live=True)
    ledger.take(PHONE, frame("a", title="t/bob"), live=True)
    assert ledger.judge([row("a", status=Status.PARKED)], 0.0, 1.0).foreign == 2


def test_a_frame_long_after_its_expiry_counts() -> None:
    ledger = ledger_of("a")
    now_ms = int(time.time() * 1_000)
    ledger.take(PHONE, frame("a", expires_at=now_ms - 5_000), live=True)
    assert wrong(ledger, row("a", status=Status.DISPATCHED)) == {"after_expiry": 1}


def test_delivered_needs_an_ack() -> None:
    ledger = ledger_of("a")
    ledger.take(PHONE, frame("a"), live=True)
    assert wrong(ledger, row("a")) == {"delivered_without_ack": 1}


def test_an_ack_that_was_never_written_down_counts() -> None:
    ledger = ledger_of("a")
    ledger.take(PHONE, frame("a"), live=True)
    ledger.acked.add("a")
    assert wrong(ledger, row("a", status=Status.PARKED)) == {"unsettled": 1}


@pytest.mark.parametrize(
    ("skipped", "breaks"),
    [
        (row("b", 2, Status.DELIVERED), 1),
        (row("b", 2, Status.EXPIRED), 0),
        (row("b", 2, Status.PARKED, expiry_ms=1), 0),
        (row("b", 7, Status.DELIVERED), 1),
    ],
)
def test_a_hole_in_a_lane_is_a_break_unless_it_expired(skipped: Row, breaks: int) -> None:
    ledger = Ledger()
    place = Place(ledger, PHONE)
    place.move("direct.high", 1, shown=True)
    place.move("direct.high", 3, shown=True)
    assert ledger.judge([row("a", 1), skipped, row("c", 3)], 0.0, 1.0).prefix_breaks == breaks


def test_what_came_otherwise_is_no_hole() -> None:
    ledger = ledger_of("b")
    place = Place(ledger, PHONE)
    place.move("direct.high", 1, shown=True)
    ledger.take(PHONE, frame("b"), live=False)
    place.move("direct.high", 2, shown=False)
    assert ledger.judge([row("b", 2)], 0.0, 1.0).prefix_breaks == 0


def test_the_longest_time_without_an_arrival() -> None:
    assert ledger_of().judge([], 10.0, 14.5).longest_gap_s == 4.5
    assert Counts().wrong == {}


async def test_an_unreliable_bus_leaves_other_messages_alone() -> None:
    unreliable = Unreliable(random.Random(1), 1.0)
    answers = [b"MSG _INBOX.a.%d 1 2\r\nok\r\n" % number for number in range(200)]
    request, ping = b"MSG gateway.x.high 2 _INBOX.b 3\r\n\r\n!\r\n", b"PING\r\n"
    stream = b"".join(answer + request + ping for answer in answers)
    out = b""
    for start in range(0, len(stream), 7):  # pieces that end anywhere
        out += await unreliable(Piece(1, True, stream[start : start + 7]))
    assert out.count(request) == out.count(ping) == len(answers)
    assert sum(unreliable.done.values()) == len(answers)
    assert min(unreliable.done.values()) > 0
    assert await unreliable(Piece(1, False, b"PUB x 1\r\n")) == b"PUB x 1\r\n"
