"""What only the picows carrier has to prove; the rest is in test_carrier.py."""

import gc
import weakref

import pytest
from multidict import CIMultiDict

from gateway._fast import connection as extension
from gateway._fast.connection import Connection
from gateway._fast.peers import Peers
from tests.unit.gateway._fast.carriers import Recorder, client, picows_serving
from tests.unit.gateway._fast.extensions import is_extension


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


async def test_the_upgrade_request_is_not_kept() -> None:
    """2 KB for the connection's whole life, otherwise."""
    headers: list[weakref.ref[CIMultiDict[str]]] = []
    async with (
        picows_serving(Recorder(), lambda request: headers.append(weakref.ref(request.headers))) as port,
        client(port) as websocket,
    ):
        await websocket.send("{}")
        await websocket.recv()
        gc.collect()
        assert [header() for header in headers] == [None]


async def test_before_the_upgrade() -> None:
    connection = Connection(Recorder(), 5)
    assert (connection.peer, connection.opened_ms, connection.deadline_ms) == ("", 5, 0)
    assert connection.is_open() is False
    connection.flush()
    connection.abort()
    connection.close(1012, "service restart")


def test_a_ticket_must_be_one_of_its_peers() -> None:
    peers = Peers((), 1)
    with pytest.raises(ValueError, match="ticket"):
        Connection(Recorder(), 0, peers, 7)
    assert Connection(Recorder(), 0, peers, peers.enter("192.0.2.1")).is_open() is False
