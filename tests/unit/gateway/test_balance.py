"""Shares of new connections: the arithmetic, and Linux itself drawing by them."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from gateway import balance
from gateway.listener import bind
from notification.limits import BALANCE_SHED_COUNT_MAX, BALANCE_SLACK_COUNT

HOST = "127.0.0.1"
CONNECTS = 240


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Four listening sockets of one port, in the order in which they began to listen."""
    with contextlib.ExitStack() as held:
        first = held.enter_context(bind(HOST, 0))
        port = first.getsockname()[1]
        sockets = [first, *(held.enter_context(bind(HOST, port)) for _ in range(3))]
        for sock in sockets:
            sock.listen(2 * CONNECTS)
        yield sockets


def drawn(group: list[socket.socket]) -> list[int]:
    """How many of CONNECTS connects each socket of the group got."""
    clients = [socket.create_connection(group[0].getsockname()) for _ in range(CONNECTS)]
    counts = []
    for sock in group:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.accept()[0].close()
                count += 1
        counts.append(count)
    for client in clients:
        client.close()
    return counts


def test_the_kernel_draws_by_the_shares(group: list[socket.socket]) -> None:
    balance.attach(group[2], [0, 0, 1, 0])
    assert drawn(group) == [0, 0, CONNECTS, 0]
    balance.attach(group[0], [0, 5, 0, 1])
    counts = drawn(group)
    assert counts[0] == counts[2] == 0
    assert counts[1] > counts[3] > 0
    balance.attach(group[0], [0, 0, 0, 0])
    assert all(drawn(group))


def test_a_place_that_does_not_listen_yet_falls_back_to_the_hash() -> None:
    with bind(HOST, 0) as only:
        only.listen(2 * CONNECTS)
        balance.attach(only, [0, 1])
        assert drawn([only]) == [CONNECTS]


def test_who_has_fewer_gets_more() -> None:
    slack = BALANCE_SLACK_COUNT
    assert balance.weights([5, 5]) == [slack, slack]
    assert balance.weights([14_000, 0, 14_000]) == [slack, 14_000 + slack, slack]
    assert balance.weights([10, None]) == [slack, 0]
    assert balance.weights([None, None]) == [0, 0]
    assert balance.weights([]) == []


def test_who_has_too_many_sends_some_away() -> None:
    assert balance.surplus([14_000, 14_000, 6_000]) == [BALANCE_SHED_COUNT_MAX, BALANCE_SHED_COUNT_MAX, 0]
    assert balance.surplus([1_000, 900, 800]) == [100, 0, 0]
    assert balance.surplus([1_100, 1_000, 1_000]) == [0, 0, 0]  # even enough
    assert balance.surplus([30, 0]) == [0, 0]  # chance
    assert balance.surplus([5_000, None]) == [0, 0]  # nobody to go to
    assert balance.surplus([None, None]) == [0, 0]
