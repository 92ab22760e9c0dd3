"""The listening socket: shared among our processes, never with strangers."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from gateway.listener import bind, check_free
from notification.errors import SettingsError
from notification.limits import WRITE_BUFFER_BYTES_MAX

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


def test_little_waits_in_the_kernel_for_who_does_not_read() -> None:
    """What the kernel holds nothing can overtake; by default it takes megabytes."""
    with bind(HOST, 0) as sock, socket.socket() as client:
        sock.setblocking(True)
        sock.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(sock.getsockname())
        accepted = sock.accept()[0]
        with accepted:
            accepted.setblocking(False)
            taken = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += accepted.send(b"x" * 16_384)
        assert WRITE_BUFFER_BYTES_MAX <= taken <= 4 * WRITE_BUFFER_BYTES_MAX
