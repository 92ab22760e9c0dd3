"""Tests of this folder run on uvloop, as gateway and workers do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from devstack.servers import Servers
from gateway.pipeline import Pipeline, RedisPipeline
from gateway.redis_cluster import ClusterPipeline
from notification.redis_address import parse
from notification.settings import Settings
from tests.contract.valkeys import Cluster, Sentinels, open_cluster, open_sentinels
from tests.twins.pipeline import MemoryPipeline, Store


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster that nobody changes."""
    with asyncio.Runner() as runner:
        opened = open_cluster(tmp_path_factory.mktemp("cluster"))
        yield runner.run(opened.__aenter__()).url
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def shared_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a master that stays one."""
    with asyncio.Runner() as runner:
        opened = open_sentinels(tmp_path_factory.mktemp("sentinels"))
        yield runner.run(opened.__aenter__()).url
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster of the test's own."""
    async with open_cluster(tmp_path_factory.mktemp("cluster")) as opened:
        yield opened


@pytest.fixture
async def sentinels(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sentinels]:
    """A master with replica and Sentinel of the test's own."""
    async with open_sentinels(tmp_path_factory.mktemp("sentinels")) as opened:
        yield opened


@pytest.fixture(
    params=["twin", *(pytest.param(kind, marks=pytest.mark.stack) for kind in ("valkey", "sentinel", "cluster"))]
)
def url(request: pytest.FixtureRequest) -> str:
    """Where Valkey is; empty for the twin."""
    if request.param == "twin":
        return ""
    if request.param != "valkey":
        return str(
            request.getfixturevalue({"sentinel": "shared_sentinels", "cluster": "shared_cluster"}[request.param])
        )
    embedded: tuple[Settings, Servers] = request.getfixturevalue("embedded")
    return embedded[0].redis_url


@pytest.fixture
async def pipeline(url: str) -> AsyncIterator[Pipeline]:
    made: MemoryPipeline | RedisPipeline | ClusterPipeline
    if not url:
        made = MemoryPipeline(Store())
    else:
        made = ClusterPipeline(parse(url)) if url.startswith("cluster") else RedisPipeline(parse(url))
        await made.start(30)
    yield made
    await made.close()
