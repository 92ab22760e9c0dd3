"""gateway/redis_sentinel.py and a master that is demoted, on a real Sentinel, master and replica."""

import asyncio

import pytest

from gateway.pipeline import RedisPipeline
from gateway.redis_sentinel import find_master
from notification.errors import Unavailable
from notification.redis_address import parse
from tests.contract.valkeys import MASTER, Sentinels, until

pytestmark = pytest.mark.stack


async def test_the_pipeline_follows_the_master(sentinels: Sentinels) -> None:
    address = parse(sentinels.url)
    assert await find_master(address) == ("127.0.0.1", sentinels.master.port)
    pipeline = RedisPipeline(address)
    await pipeline.start(30)
    assert pipeline.push("RPUSH", "list", 1)
    await pipeline.settled()
    await sentinels.fail_over()
    assert await find_master(address) == ("127.0.0.1", sentinels.master.port)
    assert pipeline.push("RPUSH", "list", 2)
    assert pipeline.push("RPUSH", "list", 3)
    await until(lambda: pipeline.queued == 0)
    assert (await sentinels.master.client.lrange("list", 0, -1))[-2:] == [b"2", b"3"]
    await pipeline.close()


async def test_a_name_that_no_sentinel_knows(sentinels: Sentinels) -> None:
    with pytest.raises(Unavailable, match=r"Redis master other of the Sentinels at 127\.0\.0\.1:"):
        await find_master(parse(sentinels.url.replace(MASTER, "other")))
    pipeline = RedisPipeline(parse(sentinels.url.replace(MASTER, "other")))
    with pytest.raises(Unavailable, match="did not answer within"):
        await pipeline.start(0.3)


async def test_a_demoted_server_is_asked_again_until_it_is_a_master(sentinels: Sentinels) -> None:
    """READONLY: nothing is lost, and calls fail meanwhile."""
    server = sentinels.master
    await sentinels.sentinel.stop()
    pipeline = RedisPipeline(parse(f"redis://127.0.0.1:{server.port}"))
    await pipeline.start(30)
    await server.client.execute_command("REPLICAOF", "127.0.0.1", 1)
    for number in range(5):
        assert pipeline.push("RPUSH", "kept", number)
    await until(lambda: not pipeline.connected)
    assert pipeline.queued == 5
    await server.client.execute_command("REPLICAOF", "NO", "ONE")
    await until(lambda: pipeline.queued == 0)
    assert await server.client.lrange("kept", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    async with asyncio.timeout(30):
        assert await pipeline.call("LLEN", "kept") == 5
    await pipeline.close()
