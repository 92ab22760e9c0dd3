"""worker.operations without PostgreSQL: what a recall says when role inbox gives no answer."""

import pytest

from notification import messages
from notification.errors import Unavailable
from notification.ids import new_uuid7
from notification.names import INBOX_RECALL
from tests.twins.bus import Hub, MemoryBus
from worker import operations


async def test_without_role_inbox_a_recall_says_so() -> None:
    with pytest.raises(Unavailable, match="no worker with role inbox is running"):
        await operations.recall(MemoryBus(Hub()), "demo", new_uuid7())


@pytest.mark.parametrize(
    ("answer", "says"),
    [(messages.encode(messages.Failure("busy")), "busy, or PostgreSQL is away"), (b"\xc1", "did not answer")],
)
async def test_an_answer_that_is_none_asks_for_another_try(answer: bytes, says: str) -> None:
    hub = Hub()

    async def inbox(_subject: str, _data: bytes) -> bytes:
        return answer

    await MemoryBus(hub).serve(INBOX_RECALL, inbox)
    with pytest.raises(Unavailable, match=says):
        await operations.recall(MemoryBus(hub), "demo", new_uuid7())
