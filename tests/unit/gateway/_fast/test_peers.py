"""gateway/_fast/peers over the extension and its twin."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._fast import peers as extension
from tests.reference import peers as twin
from tests.unit.gateway._fast.extensions import both, is_extension


def networks(*texts: str) -> list[tuple[bytes, int]]:
    return [(network.network_address.packed, network.prefixlen) for network in map(ip_network, texts)]


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestTrust:
    def test_nobody_is_trusted_by_default(self, module: Any) -> None:
        assert not module.Peers((), 1).trusts("127.0.0.1")

    @pytest.mark.parametrize(
        ("network", "inside", "outside"),
        [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"), ("10.16.0.0/12", "10.31.255.255", "10.32.0.0"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"), ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"), ("::1/128", "::1", "::2"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"), ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
            ("::/0", "::1", "not an address"),
        ],
    )  # fmt: skip
    def test_networks(self, module: Any, network: str, inside: str, outside: str) -> None:
        peers = module.Peers(networks("192.168.255.255/32", network), 0)
        assert (peers.trusts(inside), peers.trusts(outside)) == (True, False)

    @pytest.mark.parametrize("text", ["", "10.0.0.1:80", "10.0.0", "10.0.0.1\0", "::1%lo", "[::1]", "1" * 200, "ü"])
    def test_what_is_no_address(self, module: Any, text: str) -> None:
        peers = module.Peers(networks("0.0.0.0/0", "::/0"), 5)
        assert not peers.trusts(text)
        assert peers.enter(text) == module.UNCOUNTED

    @pytest.mark.parametrize("wrong", [(b"123", 8), (b"1234", 33), (b"1" * 16, 129), (b"1234", -1)])
    def test_wrong_networks(self, module: Any, wrong: tuple[bytes, int]) -> None:
        with pytest.raises(ValueError, match=r".*"):
            module.Peers([wrong], 0)


@both(extension, twin)
class TestCounting:
    def test_an_address_has_a_share_and_is_not_even_answered_at_twice_that(self, module: Any) -> None:
        peers = module.Peers((), 2)
        tickets = [peers.enter("192.0.2.1") for _ in range(2)]
        assert not any(peers.crowded(ticket) for ticket in tickets)
        more = [peers.enter("192.0.2.1") for _ in range(2)]
        assert all(peers.crowded(ticket) for ticket in more)
        assert peers.enter("192.0.2.1") == module.FLOODING
        assert not peers.crowded(peers.enter("192.0.2.2"))
        for ticket in more:
            peers.leave(ticket)
        assert not peers.crowded(tickets[0])
        assert len(peers) == 2

    def test_nothing_is_left_of_who_left(self, module: Any) -> None:
        peers = module.Peers((), 1)
        tickets = [peers.enter(f"10.0.{n >> 8}.{n & 255}") for n in range(500)]
        assert len(peers) == 500
        for ticket in tickets:
            peers.leave(ticket)
        assert len(peers) == 0
        with pytest.raises(ValueError, match=r".*"):
            peers.leave(tickets[0])

    def test_who_is_not_counted(self, module: Any) -> None:
        peers = module.Peers(networks("10.0.0.0/8"), 1)
        assert {peers.enter("10.1.1.1") for _ in range(9)} == {module.UNCOUNTED}
        assert not peers.crowded(module.UNCOUNTED)
        assert module.Peers((), 0).enter("192.0.2.1") == module.UNCOUNTED
        peers.leave(module.UNCOUNTED)
        peers.leave(module.FLOODING)
        with pytest.raises(ValueError, match=r".*"):
            module.Peers((), -1)

    def test_a_site_of_ipv6_is_one_client(self, module: Any) -> None:
        peers = module.Peers((), 9)
        assert peers.enter("2001:db8::1") == peers.enter("2001:db8::ffff:ffff:ffff:ffff")
        assert peers.enter("::ffff:192.0.2.1") == peers.enter("192.0.2.1") != peers.enter("2001:db8:0:1::")
        assert len(peers) == 3


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=400))
def test_they_agree(steps: list[tuple[bool, int]]) -> None:
    """Comings and goings of 200 addresses, enough to grow the table twice."""
    ours, theirs = extension.Peers((), 2), twin.Peers((), 2)
    held: list[tuple[int, int]] = []
    for comes, number in steps:
        if comes:
            pair = ours.enter(f"10.0.0.{number}"), theirs.enter(f"10.0.0.{number}")
            assert min(pair[0], 0) == min(pair[1], 0)
            assert ours.crowded(pair[0]) == theirs.crowded(pair[1]) if pair[0] >= 0 else True
            held.append(pair)
        elif held:
            mine, other = held.pop(number % len(held))
            ours.leave(mine)
            theirs.leave(other)
        assert len(ours) == len(theirs)
