"""gateway/redis_cluster.py on a real cluster whose slots move and whose masters go away."""

import asyncio

import pytest

from gateway._fast.resp import SLOTS_COUNT, slot_of
from gateway.redis_cluster import ClusterPipeline, key_slot, read_place, read_slots
from notification.errors import Unavailable
from notification.redis_address import parse
from tests.contract.valkeys import Cluster, until

TAGGED = "presence:{tenant:user}"


def test_the_slot_of_a_command_is_that_of_its_first_key() -> None:
    assert key_slot(("HSET", TAGGED, "f", 1)) == slot_of("tenant:user")
    assert key_slot(("EVAL", "return 1", 1, TAGGED, "x")) == slot_of("tenant:user")
    assert key_slot(("XADD", b"receipts", "*", "b", b"")) == slot_of("receipts")
    assert key_slot(("PING",)) == -1
    assert key_slot(("EVAL", "return 1", 0)) == -1


@pytest.mark.parametrize(
    ("text", "place"),
    [("h:1", ("h", 1)), (":6381", ("asked", 6381)), ("?:6381", ("asked", 6381)), ("::1:6381", ("::1", 6381)),
     ("h", None), ("h:0", None), ("h:x", None), ("h:70000", None), ("", None)],
)  # fmt: skip
def test_places(text: str, place: tuple[str, int] | None) -> None:
    assert read_place(text, ("asked", 5)) == place


def test_slots() -> None:
    reply = [
        [0, 99, [b"h", 1, b"id", []], [b"replica", 2, b"id"]],
        [100, 16383, [None, 3, b"id"]],
        [5, 5, [b"", 4]],
    ]
    assert read_slots(reply, ("asked", 9)) == [(0, 99, ("h", 1)), (100, 16383, ("asked", 3)), (5, 5, ("asked", 4))]
    assert read_slots([], ("asked", 9)) == []


@pytest.mark.parametrize(
    "reply",
    [None, b"", 5, [b""], [[0, 1]], [[0, 1, []]], [[1, 0, [b"h", 1]]], [[0, SLOTS_COUNT, [b"h", 1]]],
     [[0, 1, [b"h", b"1"]]], [[-1, 1, [b"h", 1]]], [[slot, slot, [b"h", slot + 1]] for slot in range(1_001)]],
)  # fmt: skip
def test_what_are_no_slots(reply: object) -> None:
    with pytest.raises(ValueError, match=r"SLOTS|masters"):
        read_slots(reply, ("asked", 9))


@pytest.mark.stack
async def test_a_cluster_that_is_away() -> None:
    pipeline = ClusterPipeline(parse("cluster://127.0.0.1:1,127.0.0.1:2"))
    with pytest.raises(Unavailable, match=r"Redis Cluster at 127.0.0.1:1,127.0.0.1:2 did not answer within 0.3 s"):
        await pipeline.start(0.3)
    assert not pipeline.connected


@pytest.mark.stack
async def test_slots_that_move_under_way_lose_and_disorder_nothing(cluster: Cluster) -> None:
    pipeline = ClusterPipeline(parse(cluster.url))
    await pipeline.start(30)
    slot = slot_of(TAGGED)
    pushed = 0
    others = [f"other:{number}" for number in range(30)]

    async def push(count: int) -> None:
        nonlocal pushed
        for _ in range(count):
            assert pipeline.push("RPUSH", TAGGED, pushed)
            assert pipeline.push("RPUSH", others[pushed % 30], pushed)
            pushed += 1
            if pushed % 10 == 0:
                await asyncio.sleep(0)

    await push(200)
    for _ in range(3):
        target = next(node for node in cluster.nodes if node is not cluster.owners[slot])
        await asyncio.gather(cluster.open_move(slot, target), push(200))
        # The key is still at the owner of before; a new one of the slot is answered ASK.
        assert pipeline.push("SET", "new:{tenant:user}", pushed)
        assert await pipeline.call("GET", "new:{tenant:user}") == b"%d" % pushed
        await asyncio.gather(cluster.finish_move(slot, target), push(200))
        await push(50)
    async with asyncio.timeout(60):
        await pipeline.settled()
        held = await pipeline.call("LRANGE", TAGGED, 0, -1)
        rest = [await pipeline.call("LRANGE", other, 0, -1) for other in others]
    assert [int(value) for value in held] == list(range(pushed))
    for number, values in enumerate(rest):
        assert [int(value) for value in values] == list(range(number, pushed, 30))
    await pipeline.close()


@pytest.mark.stack
async def test_a_master_that_is_away_holds_up_its_own_slots_alone(cluster: Cluster) -> None:
    pipeline = ClusterPipeline(parse(cluster.url))
    await pipeline.start(30)
    for node in cluster.nodes:  # else those that are left refuse everything
        await node.client.config_set("cluster-require-full-coverage", "no")
    lost = cluster.owners[slot_of(TAGGED)]
    here = next(f"here:{number}" for number in range(100) if cluster.owners[slot_of(f"here:{number}")] is not lost)
    await lost.child.stop()
    await until(lambda: not pipeline.connected)
    with pytest.raises(Unavailable):
        await pipeline.call("GET", TAGGED)
    assert pipeline.push("SET", TAGGED, "kept")
    assert pipeline.push("SET", here, "written")
    await until(lambda: pipeline.queued == 1)
    assert await cluster.owners[slot_of(here)].client.get(here) == b"written"
    await lost.start()
    await until(lambda: pipeline.connected and pipeline.queued == 0)
    assert await lost.client.get(TAGGED) == b"kept"
    await pipeline.close()


@pytest.mark.stack
async def test_the_queue_is_bounded_over_all_nodes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.redis_cluster.PIPELINE_COMMANDS_MAX", 5)
    pipeline = ClusterPipeline(parse(cluster.url))
    await pipeline.start(30)
    assert [pipeline.push("SET", f"k{number}", "v") for number in range(7)] == [True] * 5 + [False] * 2
    with pytest.raises(Unavailable):
        await pipeline.call("GET", "k1")
    await pipeline.settled()
    assert pipeline.push("SET", "k1", "v")
    await pipeline.close()
