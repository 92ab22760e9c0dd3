"""Tests of this folder run on uvloop, as gateway and workers do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from tests.contract.valkeys import Cluster, Sentinels, open_cluster, open_sentinels


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
