"""Which log a topic's name stands for: the id that Kafka gives a topic when it is made (KIP-516).

Version 10 of Metadata tells it: Kafka since 2.8 and the embedded broker have that, aiokafka 0.14 ends at version 5.
This is the one request, in aiokafka's own terms.
"""

import uuid
from collections.abc import Collection
from io import BytesIO
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, NodeNotReadyError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_METADATA: Final = 3
_VERSION: Final = 10
_NONE: Final = uuid.UUID(int=0)
_TEXT: Final = CompactString("utf-8")
_TAGS: Final = ("tags", TaggedFields)


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka is untyped
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class _Answer(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        ("topics", CompactArray(
            ("error_code", Int16), ("name", _TEXT), ("topic_id", _Uuid), ("is_internal", Boolean),
            ("partitions", CompactArray(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", CompactArray(Int32)), ("isr", CompactArray(Int32)),
                ("offline", CompactArray(Int32)), _TAGS,
            )),
            ("operations", Int32), _TAGS,
        )),
        ("operations", Int32),
        _TAGS,
    )  # fmt: skip


class _QuestionV10(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = _VERSION
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), _TAGS)),
        ("may_create", Boolean), ("with_cluster_operations", Boolean), ("with_topic_operations", Boolean), _TAGS,
    )  # fmt: skip


class _Question(Request[_QuestionV10]):  # type: ignore[misc]
    API_KEY = _METADATA

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_QuestionV10]) -> _QuestionV10:
        return request_struct_class([(_NONE, topic, {}) for topic in self._topics], False, False, False, {})


async def topic_ids(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, uuid.UUID]:
    """The id of each topic; none from a broker without ids. Raises KafkaError, also for a topic that is gone."""
    node: Any = client.get_random_node()
    if node is None:
        raise NodeNotReadyError("no broker is known")
    try:
        answer = await client.send(node, _Question(topics))
    except (IncompatibleBrokerVersion, NotImplementedError):  # aiokafka's words for a version the broker has not
        return {}
    ids: dict[str, uuid.UUID] = {}
    for error_code, name, topic_id, *_ in answer.topics:
        if error_code:
            raise for_code(error_code)(name)
        if topic_id != _NONE:
            ids[name] = topic_id
    return ids
