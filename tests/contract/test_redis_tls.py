"""Redis through TLS with logins: Sentinels and what they watch, a cluster, for gateway and worker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.pipeline import RedisPipeline
from gateway.redis_cluster import ClusterPipeline
from gateway.redis_sentinel import find_master
from notification.errors import Unavailable
from notification.redis_address import parse
from tests.certificates import Authority
from tests.contract.valkeys import Cluster, Sentinels, Tls, open_cluster, open_sentinels, until
from worker.redis_client import open_client

pytestmark = pytest.mark.stack

KEYS = [f"key:{{{number}}}" for number in range(30)]  # all over a cluster


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tls:
    """Whose authority this process trusts."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("redis")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    return Tls(authority.ca, cert, key)


@pytest.fixture
async def sentinels(tls: Tls, tmp_path: Path) -> AsyncIterator[Sentinels]:
    async with open_sentinels(tmp_path, tls) as opened:
        yield opened


@pytest.fixture
async def cluster(tls: Tls, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with open_cluster(tmp_path, tls) as opened:
        yield opened


async def test_the_master_of_sentinels(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = RedisPipeline(parse(sentinels.url))
    await pipeline.start(60)
    assert pipeline.push("RPUSH", "list", 1)
    await pipeline.settled()
    worker = open_client(sentinels.url, 30)
    assert await worker.lrange("list", 0, -1) == [b"1"]
    await worker.aclose()
    await pipeline.close()

    for wrong in (
        sentinels.url.partition("?")[0],
        sentinels.url.replace("sentinel_password=", "sentinel_password=x"),
        sentinels.url.replace("sentinel+tls", "sentinel"),
        sentinels.url.replace("127.0.0.1", "127.0.0.2"),  # nobody's, and not in the certificate
    ):
        with pytest.raises(Unavailable, match="no Sentinel names it"):
            await find_master(parse(wrong))
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Unavailable, match="no Sentinel names it"):
        await find_master(parse(sentinels.url))


async def test_a_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = ClusterPipeline(parse(cluster.url))
    await pipeline.start(60)
    worker = open_client(cluster.url, 30)
    for key in KEYS:
        assert pipeline.push("RPUSH", key, 1)
    await pipeline.settled()
    assert [await worker.lrange(key, 0, -1) for key in KEYS] == [[b"1"]] * len(KEYS)
    slot = await worker.cluster_keyslot("moved")  # type: ignore[attr-defined]
    target = next(node for node in cluster.nodes if node is not cluster.owners[slot])
    await cluster.finish_move(slot, target)
    assert pipeline.push("RPUSH", "moved", 1)  # to the old master, which says where: through TLS again
    await until(lambda: pipeline.queued == 0)
    assert await target.client.lrange("moved", 0, -1) == [b"1"]
    await worker.aclose()
    await pipeline.close()

    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = ClusterPipeline(parse(cluster.url))
    with pytest.raises(Unavailable, match="did not answer within"):
        await stranger.start(0.5)
