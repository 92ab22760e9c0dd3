import pytest

from notification import names
from notification.errors import InvalidInput
from worker.dead_letter_reader import Letter, LetterName


def test_a_name_is_its_place() -> None:
    name = LetterName.parse("0-17", "LETTER")
    assert name == LetterName(0, 17)
    assert str(name) == "0-17"


@pytest.mark.parametrize(
    "text", ["", "17", "0-", "-17", "0-17-1", " 0-17", "0-١٧", "0-" + "1" * 19, "a-b", "0-17\n"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="LETTER: must be PARTITION-OFFSET, such as 0-17"):
        LetterName.parse(text, "LETTER")


@pytest.mark.parametrize(
    ("text", "number"),
    [("41", 41), ("", None), ("-1", None), ("x", None), ("٤", None), ("9" * 19, None), ("²", None)],
)
def test_a_number_that_somebody_else_wrote(text: str, number: int | None) -> None:
    assert Letter(LetterName(0, 0), 0, None, None, {"offset": text}).number("offset") == number


def test_a_letter_is_the_record_that_it_was_as_of_now() -> None:
    headers = {"topic": names.TOPICS[2], "partition": "3", "offset": "41", "timestamp_ms": "5"}
    record = Letter(LetterName(0, 9), 7, b"k", b"v", headers).record(1_000)
    assert record[:5] == (names.TOPICS[2], 3, 41, b"k", b"v")
    assert (record.timestamp_ms, record.broker_ms) == (1_000, 1_000)
