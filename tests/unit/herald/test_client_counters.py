"""herald.client: which counters it believes; test_client.py has the rest of it."""

import pytest

from herald.client import HeraldClient
from notification.frames import Counters, CountersFrame, Resumed, Welcome


async def nobody() -> str:
    return "a.b.c"


@pytest.mark.parametrize(("epoch", "left"), [(7, Counters(5, 90)), (9, Counters(1, 3))])
async def test_counters_of_another_log_begin_anew(epoch: int, left: Counters) -> None:
    """Their rev says nothing beside the old ones."""
    client = HeraldClient("ws://127.0.0.1:9/ws/connect", nobody)
    for frame in (
        Welcome("s", "d.u.v", 30, 7, True), CountersFrame(5, 90), Welcome("s", "d.u.v", 30, epoch, epoch == 7),
        Resumed({}, Counters(1, 3), epoch == 7),
    ):  # fmt: skip
        await client._on_frame(frame)
    assert client.counters == left
