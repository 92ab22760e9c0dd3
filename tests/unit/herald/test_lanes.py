"""herald.lanes: the cursor of the Python client; test_client.py drives it through a gateway."""

import msgspec

from herald.lanes import Lanes
from notification.frames import Cursor, Notification


def arrived(seq: int) -> Notification:
    return Notification("direct.high", seq, f"id{seq}", "service", "high", 0, 0, msgspec.Raw(b"{}"))


def test_the_cursor_stays_before_what_is_not_acked() -> None:
    lanes = Lanes(None)
    assert lanes.cursor() is None
    lanes.begin(7, keep=True)
    for seq in (4, 6, 8):
        lanes.received(arrived(seq))
    assert lanes.acked("id6")
    assert lanes.cursor() == Cursor(7, {"direct.high": 3})
    assert lanes.acked("id4")
    assert lanes.cursor() == Cursor(7, {"direct.high": 7})
    assert not lanes.acked("id4")


def test_another_log_starts_from_nothing() -> None:
    lanes = Lanes(Cursor(6, {"direct.high": 9, "direct.low": 2}))
    lanes.begin(7, keep=False)
    lanes.complete({"direct.high": 1}, recovered=False)
    assert lanes.cursor() == Cursor(7, {"direct.high": 1})


def test_a_cursor_of_another_epoch_is_not_kept_while_its_resume_is_pending() -> None:
    lanes = Lanes(Cursor(6, {"direct.high": 9}))
    lanes.begin(7, keep=True)
    assert lanes.cursor() == Cursor(7, {})


def test_resumed_raises_what_is_held_and_lowers_nothing() -> None:
    lanes = Lanes(Cursor(7, {"direct.high": 9}))
    lanes.begin(7, keep=True)
    lanes.complete({"direct.high": 5, "direct.low": 3}, recovered=True)
    assert lanes.cursor() == Cursor(7, {"direct.high": 9, "direct.low": 3})
