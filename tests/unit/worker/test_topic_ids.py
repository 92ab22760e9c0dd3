"""The one request that aiokafka lacks: its bytes and its refusals; real brokers answer it in test_log.py."""

import uuid
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError, UnknownTopicOrPartitionError

from worker.topic_ids import topic_ids

ID = uuid.UUID("863d5d56-3384-4a75-8429-bf109ae928cf")
NO_ID = uuid.UUID(int=0)
# Kafka's protocol guide, Metadata version 10: topics (id, name), then three booleans; lengths are one more.
QUESTION = b"\x02" + bytes(16) + b"\x02t\0" + b"\0\0\0" + b"\0"


class Client:
    """A client whose one broker has these topics (error code, id) and versions of Metadata."""

    def __init__(self, topics: dict[str, tuple[int, uuid.UUID]], versions: tuple[int, int] = (0, 12)) -> None:
        self.topics, self.versions = topics, versions
        self.node: int | None = 1
        self.asked = b""

    def get_random_node(self) -> int | None:
        return self.node

    async def send(self, node: int, question: Any) -> Any:
        request = question.prepare({3: self.versions})
        self.asked = request.encode()
        partition = (0, 0, node, 0, [node], [node], [], {})
        topics = [(code, name, ident, False, [partition], 0, {}) for name, (code, ident) in self.topics.items()]
        answer = request.RESPONSE_TYPE(0, [(node, "h", 9092, None, {})], "c", node, topics, 0, {})
        return request.RESPONSE_TYPE.decode(answer.encode())


async def test_the_ids_are_told() -> None:
    client = Client({"t": (0, ID)})
    assert await topic_ids(client, ["t"]) == {"t": ID}
    assert client.asked == QUESTION


@pytest.mark.parametrize("client", [Client({"t": (0, ID)}, (0, 9)), Client({"t": (0, NO_ID)})])
async def test_a_broker_without_ids_tells_none(client: Client) -> None:
    assert await topic_ids(client, ["t"]) == {}


async def test_a_topic_that_is_gone_is_an_error() -> None:
    with pytest.raises(UnknownTopicOrPartitionError):
        await topic_ids(Client({"t": (3, NO_ID)}), ["t"])


async def test_without_any_broker_it_is_an_error() -> None:
    client = Client({})
    client.node = None
    with pytest.raises(NodeNotReadyError):
        await topic_ids(client, ["t"])
