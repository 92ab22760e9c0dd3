"""herald.console: times and rows."""

import datetime

import pytest

from herald.commands.listen import _plain
from herald.console import file_fault, iso_ms, iso_time, print_json


def test_times_are_utc_with_milliseconds() -> None:
    assert iso_ms(0) == "1970-01-01T00:00:00.000Z"
    assert iso_ms(1_732_395_000_007) == "2024-11-23T20:50:00.007Z"
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert iso_time(datetime.datetime(2024, 11, 23, 22, 50, 0, 7_000, zone)) == "2024-11-23T20:50:00.007Z"


def test_rows_are_one_compact_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "é\n", "b": [1]})
    assert capsys.readouterr().out == '{"a":"é\\n","b":[1]}\n'


def test_a_notification_cannot_steer_the_terminal() -> None:
    assert _plain("a\x1b[2Jb\nc\u202e") == "a [2Jb c "


def test_a_files_fault_is_said_in_words() -> None:
    assert file_fault(FileNotFoundError(2, "No such file or directory", "x")) == "x: No such file or directory"
    assert file_fault(OSError(5, "Input/output error")) == "reading or writing failed: Input/output error"
    assert file_fault(OSError()) == "reading or writing failed: OSError"
