"""How much of a process one client address, or one tenant, may hold; and which proxies are believed.

Addresses are counted by the carriers from accept to the socket's end (gateway/_fast/peers.pyx); tenants by the
policy, from the token to the connection's end. Both per process.
"""

import ipaddress
from collections.abc import Iterable

from gateway._fast.peers import Peers
from notification.limits import AUTH_SERVICE_CLIENTS_PER_ADDRESS_MAX, FORWARDED_ENTRIES_MAX
from notification.settings import Network


class Caps:
    """0 = no cap. A trusted proxy's own address is never counted: many clients stand behind it.

    `asking` counts who waits for an AuthService.
    """

    def __init__(self, per_address: int = 0, per_tenant: int = 0, trusted: Iterable[Network] = ()) -> None:
        networks = [(network.network_address.packed, network.prefixlen) for network in trusted]
        self.peers = Peers(networks, per_address)
        self.asking = Peers(networks, AUTH_SERVICE_CLIENTS_PER_ADDRESS_MAX)
        self.trusting = bool(networks)
        self._per_tenant = per_tenant
        self._tenants: dict[str, int] = {}

    # --- tenants ------------------------------------------------------------
    def full(self, tenant: str) -> bool:
        """Does the tenant hold as many connections as it may?"""
        return bool(self._per_tenant) and self._tenants.get(tenant, 0) >= self._per_tenant

    def joined(self, tenant: str) -> None:
        """One more connection of the tenant."""
        self._tenants[tenant] = self._tenants.get(tenant, 0) + 1

    def left(self, tenant: str) -> None:
        """A connection that had joined is gone."""
        count = self._tenants[tenant] - 1
        if count:
            self._tenants[tenant] = count
        else:
            del self._tenants[tenant]

    # --- addresses ----------------------------------------------------------
    def client(self, peer: str, forwarded: list[str]) -> str:
        """The client's address, when `peer` sent these lines of X-Forwarded-For.

        Each proxy appended whom it saw: from the end, as long as the address before is trusted, the next one is
        believed. What is no address, or stands in front of a stranger's, is anybody's invention.
        """
        entries = ",".join(forwarded).split(",")[-FORWARDED_ENTRIES_MAX:] if forwarded else []
        while entries and self.peers.trusts(peer):
            found = _address(entries.pop().strip())
            if not found:
                break
            peer = found
        return peer


def _address(entry: str) -> str:
    """An entry's address, also as `ADDRESS:PORT` and `[ADDRESS]:PORT`; "" when it holds none."""
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ipaddress.ip_address(entry)
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)
