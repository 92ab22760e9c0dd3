"""worker/redis_client.py: what workers do with Redis, on one server, behind a Sentinel and on a cluster."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from devstack.servers import Servers
from notification.errors import SettingsError
from notification.messages import ReceiptsEntry, encode
from notification.names import PRESENCE_BORN, RECEIPTS_FIELD, RECEIPTS_STREAM, lease_key, presence_key
from notification.presence import Entry, PresenceState
from notification.settings import Settings
from worker.database import Pool
from worker.partitions import Partitions
from worker.presence import Beats, RedisPresence
from worker.receipts import Receipts, Received
from worker.redis_client import REDIS_AWAY, open_client


@pytest.fixture(params=["server", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        embedded: tuple[Settings, Servers] = request.getfixturevalue("embedded")
        return embedded[0].redis_url.rpartition("/")[0] + "/2"
    return str(
        request.getfixturevalue({"sentinel": "shared_sentinels", "cluster": "shared_cluster"}[request.param])
    )


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    opened = open_client(url, 10)
    yield opened
    await opened.delete(PRESENCE_BORN)
    await opened.delete(RECEIPTS_STREAM)
    await opened.aclose()


@pytest.mark.stack
async def test_presence_is_read(client: Any) -> None:
    tags = [f"t:{number}" for number in range(40)]  # all over a cluster
    await client.set(PRESENCE_BORN, int(time.time() * 1000) - 60_000)
    for number, tag in enumerate(tags):
        entry = Entry(f"g-{number % 3}", 1, PresenceState.ONLINE, 1)
        await client.hset(presence_key(tag), "phone", entry.encode())
        await client.set(lease_key(f"g-{number % 3}"), "1", px=60_000)
    reader = RedisPresence(client, Beats())
    found = await reader.locate([*tags, "t:nobody"])
    assert not found.unknown
    assert found.owners == {tag: (f"g-{number % 3}",) for number, tag in enumerate(tags)}
    await reader.close()


@pytest.mark.stack
async def test_entries_of_dead_gateways_are_deleted(client: Any) -> None:
    now_s = 0.0
    beats = Beats(lambda: now_s)
    now_s = 100.0
    await client.set(PRESENCE_BORN, int(time.time() * 1000) - 60_000)
    entry = Entry("dead", 1, PresenceState.ONLINE, 1)
    for tag in ("t:a", "t:b", "t:c"):
        await client.hset(presence_key(tag), "phone", entry.encode())
    reader = RedisPresence(client, beats)
    assert (await reader.locate(["t:a", "t:b", "t:c"])).owners == {}
    await reader.close()
    assert [await client.hlen(presence_key(tag)) for tag in ("t:a", "t:b", "t:c")] == [0, 0, 0]


class StoringNothing(Receipts):
    """Role receipts without its database."""

    async def store(self, received: Sequence[Received]) -> None:
        self.stored = [item.entry for item in received]


@pytest.mark.stack
async def test_receipts_are_read_and_acknowledged(client: Any) -> None:
    nowhere = cast(Pool, None)
    receipts = StoringNothing(client, nowhere, Partitions(nowhere), "c")
    await receipts.start()
    await receipts.start()
    entries = [ReceiptsEntry("g-1", number, [], []) for number in range(1, 4)]
    for entry in entries:
        await client.xadd(RECEIPTS_STREAM, {RECEIPTS_FIELD: encode(entry)})
    stored: list[Any] = []
    while len(stored) < 3:
        await receipts.step()
        stored += receipts.stored
    assert stored == entries
    assert await client.xlen(RECEIPTS_STREAM) == 0


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "sentinel://127.0.0.1:1/m", "cluster://127.0.0.1:1"])
async def test_away_is_one_kind_of_error(url: str) -> None:
    opened = open_client(url, 0.5)
    with pytest.raises(REDIS_AWAY):
        await opened.ping()
    assert (await RedisPresence(opened, Beats()).locate(["t:u"])).unknown
    await opened.aclose()


@pytest.mark.parametrize("answer", [[b"1", [], []], [], b"OK", [b"1", [b"phone"]]])
async def test_an_answer_to_another_question_says_nothing(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_client("redis://127.0.0.1:1", 0.5)

    async def say(*_: Any) -> Any:
        return answer

    monkeypatch.setattr(opened, "eval", say)
    assert (await RedisPresence(opened, Beats()).locate(["t:u"])).unknown
    await opened.aclose()


def test_a_wrong_address() -> None:
    with pytest.raises(SettingsError, match="redis: must be"):
        open_client("http://h", 1)
