"""Who is at the other end: proxies that are trusted, and how many sockets each client address holds."""

from collections.abc import Iterable

UNCOUNTED: int  # the ticket of a socket whose address is not counted
FLOODING: int  # no ticket: the address holds twice what it may; not even an answer is due

class Peers:
    """One object per process, called from its event loop. Addresses are texts, without port or zone; IPv4-mapped
    IPv6 counts as IPv4, IPv6 by its first 64 bits."""

    per_address: int

    def __init__(self, networks: Iterable[tuple[bytes, int]], per_address: int) -> None:
        """`networks`: those of trusted proxies, (4 or 16 bytes, prefix length). `per_address`: sockets that one
        address may hold; 0: nothing is counted. ValueError: not such values."""
    def trusts(self, address: str) -> bool:
        """Is the address in a trusted network? False for what is no address."""
    def enter(self, address: str) -> int:
        """Count one more socket of the address. The ticket to leave() with; UNCOUNTED for a trusted proxy, for what
        is no address, and without memory; FLOODING, and nothing is counted, at twice `per_address`."""
    def leave(self, ticket: int) -> None:
        """The socket of a ticket is gone; nothing for UNCOUNTED and FLOODING. ValueError: not a ticket in use."""
    def crowded(self, ticket: int) -> bool:
        """Does the address of the ticket hold more than `per_address` sockets now?"""
    def __len__(self) -> int:
        """Addresses that hold sockets."""
