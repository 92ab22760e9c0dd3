"""notification.codes: every table is complete and unambiguous."""

import json

import pytest

from notification import codes


def test_lane_numbers_names_and_priorities_agree() -> None:
    assert [lane.wire for lane in codes.Lane] == list(codes.LANE_NAMES)
    assert codes.LANE_COUNT == len(codes.Lane) == 6
    for lane in codes.Lane:
        assert codes.LANE_BY_NAME[lane.wire] is lane
        assert lane.wire.endswith(("high", "medium", "low")[lane.priority])


def test_every_status_has_a_rank_and_terminal_states_share_one() -> None:
    assert set(codes.RANKS) == set(codes.Status)
    terminal = {status for status, rank in codes.RANKS.items() if rank is codes.Rank.TERMINAL}
    assert terminal == {
        codes.Status.EXPIRED, codes.Status.CANCELLED, codes.Status.COLLAPSED, codes.Status.DEAD,
    }  # fmt: skip
    assert codes.RANKS[codes.Status.DELIVERED] > codes.Rank.TERMINAL  # an ack beats a terminal state


def test_every_status_code_has_a_text_and_names_its_status() -> None:
    assert set(codes.STATUS_TEXT) == set(codes.StatusCode)
    families = {"SENT": codes.Status.DISPATCHED}
    for code in codes.StatusCode:
        family = code.name.split("_")[0]
        assert families.get(family) or family in codes.Status.__members__


def test_close_codes_are_sendable_and_unique() -> None:
    numbers = [close.code for close in codes.CLOSES]
    assert len(set(numbers)) == len(numbers)
    for close in codes.CLOSES:
        assert close.code in {1000, 1002, 1003, 1007, 1009, 1011, 1012} or 4000 <= close.code <= 4999
        assert len(close.reason.encode()) <= 123  # RFC 6455 §5.5: a control frame holds 125 bytes


def test_refusals_have_fixed_bodies_and_say_when_to_retry() -> None:
    assert len({refusal.code for refusal in codes.REFUSALS}) == len(codes.REFUSALS)
    for refusal in codes.REFUSALS:
        assert json.loads(refusal.body) == {"error": refusal.code}
        retry = dict(refusal.headers).get("Retry-After")
        assert (retry is not None) == (refusal.status in (429, 503))


@pytest.mark.parametrize("code", sorted(codes.ERRORS))
def test_error_texts_are_sentences(code: str) -> None:
    assert codes.ERRORS[code].strip() == codes.ERRORS[code] != ""


def test_receipt_codes_are_bytes() -> None:
    assert sorted(codes.ReceiptCode) == list(range(len(codes.ReceiptCode)))
