"""The listening socket: shared among our processes, never with strangers."""

import socket
from collections.abc import Iterator

import pytest

from gateway.listener import bind, check_free
from notification.errors import SettingsError

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port some other program listens on, even with SO_REUSEPORT."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_our_processes_share_a_port() -> None:
    with bind(HOST, 0) as first:
        port = first.getsockname()[1]
        first.listen()
        with bind(HOST, port) as second:
            second.listen()


def test_a_taken_port_is_named_with_its_setting(taken: int) -> None:
    with pytest.raises(SettingsError, match=rf"{HOST}:{taken}: .*HERALD_GATEWAY_PORT"):
        check_free(HOST, taken)


def test_a_port_without_reuse_is_taken_for_us_too() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(SettingsError, match="HERALD_GATEWAY_PORT"):
            bind(HOST, other.getsockname()[1])


def test_a_port_that_was_just_left_is_free() -> None:
    with bind(HOST, 0) as sock:
        port = sock.getsockname()[1]
        sock.listen()
    check_free(HOST, port)
