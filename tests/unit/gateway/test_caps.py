"""What X-Forwarded-For is believed, and tenants' shares; over sockets: tests/flow/test_gateway_caps.py."""

from ipaddress import ip_network

import pytest

from gateway.caps import Caps
from notification.limits import FORWARDED_ENTRIES_MAX

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.2.2.2", "fd00::1"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),
        ("203.0.113.1", ["1.2.3.4"], "203.0.113.1"),
        ("", ["1.2.3.4"], ""),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:DB8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9" + ", 10.0.0.2" * FORWARDED_ENTRIES_MAX], "10.0.0.2"),
    ],
)
def test_x_forwarded_for(peer: str, lines: list[str], client: str) -> None:
    assert Caps(trusted=TRUSTED).client(peer, lines) == client


def test_tenants() -> None:
    caps = Caps(per_tenant=2)
    for _ in range(2):
        assert not caps.full("acme")
        caps.joined("acme")
    assert (caps.full("acme"), caps.full("other")) == (True, False)
    caps.left("acme")
    assert not caps.full("acme")
    caps.left("acme")
    with pytest.raises(KeyError):
        caps.left("acme")


def test_no_cap() -> None:
    caps = Caps()
    caps.joined("acme")
    assert not caps.full("acme")
    assert (caps.trusting, Caps(trusted=TRUSTED).trusting) == (False, True)
