"""Plain-Python twin of gateway/_fast/peers.pyx, from peers.pyi; never in production."""

import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable

UNCOUNTED, FLOODING = -1, -2
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Peers:
    def __init__(self, networks: Iterable[tuple[bytes, int]], per_address: int) -> None:
        if per_address < 0:
            raise ValueError(per_address)
        self.per_address = per_address
        self._networks = [ipaddress.ip_network((packed, bits)) for packed, bits in networks]
        self._counts: Counter[Address] = Counter()
        self._tickets: dict[int, Address] = {}

    def trusts(self, address: str) -> bool:
        found = _parse(address)
        return found is not None and any(
            found in network or _mapped(found) in network for network in self._networks
        )

    def enter(self, address: str) -> int:
        found = _parse(address)
        if found is None or not self.per_address or self.trusts(address):
            return UNCOUNTED
        if found.version == 6:
            found = ipaddress.IPv6Address(int(found) >> 64 << 64)
        if self._counts[found] >= 2 * self.per_address:
            return FLOODING
        self._counts[found] += 1
        known = (ticket for ticket, other in self._tickets.items() if other == found)
        free = next(number for number in range(len(self._tickets) + 1) if number not in self._tickets)
        ticket = next(known, free)
        self._tickets[ticket] = found
        return ticket

    def leave(self, ticket: int) -> None:
        if ticket < 0:
            return
        if ticket not in self._tickets:
            raise ValueError(ticket)
        address = self._tickets[ticket]
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address], self._tickets[ticket]

    def crowded(self, ticket: int) -> bool:
        return ticket >= 0 and self._counts[self._tickets[ticket]] > self.per_address

    def __len__(self) -> int:
        return len(self._tickets)


def _parse(text: str) -> Address | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found = ipaddress.ip_address(socket.inet_pton(family, text))
        except (OSError, UnicodeError, ValueError):
            continue
        return getattr(found, "ipv4_mapped", None) or found
    return None


def _mapped(address: Address) -> Address:
    """What an IPv6 network of ::ffff:0:0/96 holds."""
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed) if address.version == 4 else address
