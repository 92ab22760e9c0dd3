import hashlib
from collections.abc import Iterable

import pytest

from notification import names
from notification.limits import EVENT_BYTES_MAX
from tests.twins.log import MemoryBroker, MemoryLog
from worker.admission import Reason, Rejection
from worker.dead_letters import Dead, bury, claimed_tenant, encode
from worker.log import DeadLetter, LogAway, Record, TooLarge

RECORD = Record(names.TOPICS[1], 3, 41, b"key", b"\xffvalue", 1_700_000_000_000, None)
REJECTION = Rejection(Reason.SCHEMA, "ttl: must be größer")


def test_a_letter_is_the_record_and_why() -> None:
    assert encode(Dead(RECORD, REJECTION)) == DeadLetter(
        b"key",
        b"\xffvalue",
        [
            ("reason", b"schema"),
            ("detail", "ttl: must be größer".encode()),
            ("topic", names.TOPICS[1].encode()),
            ("partition", b"3"),
            ("offset", b"41"),
            ("timestamp_ms", b"1700000000000"),
            ("tenant_id", b"key"),
        ],
    )


@pytest.mark.parametrize(
    ("key", "value", "tenant"),
    [
        (b"acme:ann", b'{"tenant_id":"shop"}', "shop"),
        (b"acme:ann", b'{"tenant_id":"a b"}', "acme"),
        (b"acme:ann", b'{"tenant_id":7}', "acme"),
        (b"acme:ann", b"\xff", "acme"),
        (b"acme:ann", None, "acme"),
        (b"acme:ann", b'{"tenant_id":"shop"}' + b" " * EVENT_BYTES_MAX, "acme"),
        (b"acme", b"[" * 5_000, "acme"),
        (b"a b:c", b"", None),
        (b"\xff:c", b"{}", None),
        (None, None, None),
    ],
)
def test_the_tenant_that_a_record_names(key: bytes | None, value: bytes | None, tenant: str | None) -> None:
    dead = Dead(RECORD._replace(key=key, value=value), REJECTION)
    assert claimed_tenant(dead.record) == tenant
    assert dict(encode(dead).headers).get("tenant_id") == (None if tenant is None else tenant.encode())


@pytest.mark.parametrize(
    ("key", "value", "buried"), [(None, None, (None, b"")), (b"k", None, (b"k", None)), (None, b"", (None, b""))]
)
def test_a_record_of_nothing_can_be_sent(
    key: bytes | None, value: bytes | None, buried: tuple[bytes | None, bytes | None]
) -> None:
    assert encode(Dead(RECORD._replace(key=key, value=value), REJECTION))[:2] == buried


async def test_letters_keep_their_order() -> None:
    broker = MemoryBroker()
    await bury(MemoryLog(broker), [Dead(RECORD._replace(offset=n), REJECTION) for n in range(3)])
    assert [dict(letter.headers)["offset"] for letter in broker.dead] == [b"0", b"1", b"2"]


async def test_an_outage_is_raised() -> None:
    with pytest.raises(LogAway):
        await bury(MemoryLog(MemoryBroker(away=True)), [Dead(RECORD, REJECTION)])


class SmallLog(MemoryLog):
    """Refuses values of more than 5 bytes."""

    async def bury(self, letters: Iterable[DeadLetter]) -> None:
        kept = list(letters)
        if any(len(letter.value or b"") > 5 for letter in kept):
            raise TooLarge("too large")
        await super().bury(kept)


async def test_what_the_topic_refuses_for_its_size_leaves_its_place_and_hash() -> None:
    broker = MemoryBroker()
    small = RECORD._replace(value=b"small", offset=42)
    await bury(SmallLog(broker), [Dead(RECORD, REJECTION), Dead(small, REJECTION)])
    first, second = broker.dead
    headers = dict(first.headers)
    assert (first.value, headers["offset"], headers["reason"]) == (b"", b"41", b"schema")
    assert headers["value_sha256"].decode() == hashlib.sha256(b"\xffvalue").hexdigest()
    assert second.value == b"small"
