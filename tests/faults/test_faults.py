"""A part of `make faults` that fits into a test run: each kind of process and server dies once under load."""

from pathlib import Path

import pytest

from tests.conftest import kafka_kind
from tests.faults.cases import EVERYWHERE
from tests.faults.run import play

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

PLAYED = (
    "worker killed after COMMIT", "postgres killed, 5 s down", "nats killed", "redis killed", "gateway killed",
)  # fmt: skip


@pytest.mark.parametrize("name", PLAYED)
async def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in EVERYWHERE if case.name == name)
    result = await play(case, 1, tmp_path, kafka_kind())
    print(result)
    assert result.broken == []
