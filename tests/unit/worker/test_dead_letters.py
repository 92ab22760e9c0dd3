import hashlib
from collections.abc import Iterable

import pytest

from notification import names
from notification.errors import CryptoError
from notification.limits import EVENT_BYTES_MAX
from tests.twins.log import MemoryBroker, MemoryLog
from tests.unit.worker.letter_keys import FixedKeys, key_of
from worker.admission import Reason, Rejection
from worker.database import PLATFORM
from worker.dead_letters import Dead, bury, claimed_tenant, encode, opened, owner_of
from worker.log import DeadLetter, LogAway, Record, TooLarge

RECORD = Record(names.TOPICS[1], 3, 41, b"key", b"\xffvalue", 1_700_000_000_000, None)
REJECTION = Rejection(Reason.SCHEMA, "ttl: must be größer")


KEYS = {owner: key_of(owner) for owner in ("key", "shop", PLATFORM)}


def test_a_letter_says_why_and_seals_the_record() -> None:
    letter = encode(Dead(RECORD, REJECTION), KEYS)
    assert letter.headers == [
        ("reason", b"schema"),
        ("detail", "ttl: must be größer".encode()),
        ("topic", names.TOPICS[1].encode()),
        ("partition", b"3"),
        ("offset", b"41"),
        ("timestamp_ms", b"1700000000000"),
        ("bytes", b"6"),
        ("tenant_id", b"key"),
        ("sealed_under", b"tenant"),
    ]
    assert letter.key is None
    assert b"value" not in (letter.value or b"")
    headers = readable(letter)
    assert owner_of(headers) == "key"
    assert opened(headers, letter.value or b"", KEYS["key"]) == (b"key", b"\xffvalue")


def test_what_names_no_tenant_that_exists_is_sealed_for_the_platform() -> None:
    for record in (RECORD._replace(key=b"stranger:ann"), RECORD._replace(key=None)):
        letter = encode(Dead(record, REJECTION), KEYS)
        headers = readable(letter)
        assert owner_of(headers) == PLATFORM
        assert opened(headers, letter.value or b"", KEYS[PLATFORM]) == record[3:5]


@pytest.mark.parametrize("header", ["topic", "partition", "offset", "tenant_id"])
def test_a_letter_opens_only_where_it_was_and_with_its_key(header: str) -> None:
    letter = encode(Dead(RECORD, REJECTION), KEYS)
    headers, sealed = readable(letter), letter.value or b""
    with pytest.raises(CryptoError):
        opened(headers | {header: "shop"}, sealed, KEYS["key"])
    with pytest.raises(CryptoError):
        opened(headers, sealed, KEYS["shop"])
    with pytest.raises(CryptoError):
        opened(headers | {"sealed_under": "platform"}, sealed, KEYS["key"])
    with pytest.raises(CryptoError):
        opened(headers, sealed[:-1], KEYS["key"])


def test_what_no_worker_sealed_has_no_owner() -> None:
    assert owner_of({"tenant_id": "shop"}) is None
    assert owner_of({"tenant_id": "shop", "sealed_under": "shop"}) is None
    assert owner_of({"sealed_under": "tenant"}) is None


def readable(letter: DeadLetter) -> dict[str, str]:
    return {name: text.decode() for name, text in letter.headers}


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
    assert dict(encode(dead, KEYS).headers).get("tenant_id") == (None if tenant is None else tenant.encode())


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"k", None), (None, b""), (b"", b"")])
def test_nothing_and_empty_stay_what_they_are(key: bytes | None, value: bytes | None) -> None:
    letter = encode(Dead(RECORD._replace(key=key, value=value), REJECTION), KEYS)
    assert opened(readable(letter), letter.value or b"", KEYS[PLATFORM]) == (key, value)


async def test_letters_keep_their_order() -> None:
    broker = MemoryBroker()
    await bury(MemoryLog(broker), FixedKeys(), [Dead(RECORD._replace(offset=n), REJECTION) for n in range(3)])
    assert [dict(letter.headers)["offset"] for letter in broker.dead] == [b"0", b"1", b"2"]


async def test_an_outage_is_raised() -> None:
    with pytest.raises(LogAway):
        await bury(MemoryLog(MemoryBroker(away=True)), FixedKeys(), [Dead(RECORD, REJECTION)])


async def test_nothing_is_buried_unsealed_while_the_keys_are_away() -> None:
    broker, keys = MemoryBroker(), FixedKeys()
    keys.away = OSError("down")
    with pytest.raises(OSError, match="down"):
        await bury(MemoryLog(broker), keys, [Dead(RECORD, REJECTION)])
    assert broker.dead == []


class SmallLog(MemoryLog):
    """Refuses values of more than 60 bytes: with its seal, a record of 5 fits."""

    async def bury(self, letters: Iterable[DeadLetter]) -> None:
        kept = list(letters)
        if any(len(letter.value or b"") > 60 for letter in kept):
            raise TooLarge("too large")
        await super().bury(kept)


async def test_what_the_topic_refuses_for_its_size_leaves_its_place_and_hash() -> None:
    broker = MemoryBroker()
    small = RECORD._replace(value=b"small", offset=42)
    large = RECORD._replace(value=b"\xffvalue" * 10)
    await bury(SmallLog(broker), FixedKeys("key"), [Dead(large, REJECTION), Dead(small, REJECTION)])
    first, second = broker.dead
    headers = dict(first.headers)
    assert (first.value, headers["offset"], headers["reason"]) == (b"", b"41", b"schema")
    assert headers["value_sha256"].decode() == hashlib.sha256(b"\xffvalue" * 10).hexdigest()
    assert owner_of(readable(first)) is None
    assert opened(readable(second), second.value or b"", KEYS["key"]).value == b"small"
