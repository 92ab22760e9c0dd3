"""Flow tests run on uvloop, as the gateway does."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["engine", "picows", "tls"])
def carrier(request: pytest.FixtureRequest) -> str:
    """Every flow runs over both carriers, and through TLS."""
    return str(request.param)
