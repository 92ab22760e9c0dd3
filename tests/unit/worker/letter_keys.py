"""The keys of dead letters without a database: a tenant has one if it is called so here."""

import hashlib

from worker.database import PLATFORM


class FixedKeys:
    """dead_letters.LetterKeys of these tenants; `away` is raised instead while it is set."""

    def __init__(self, *tenants: str) -> None:
        self.tenants = set(tenants)
        self.away: Exception | None = None

    async def letter_keys(self, tenants: set[str]) -> dict[str, bytes]:
        if self.away is not None:
            raise self.away
        return {owner: key_of(owner) for owner in (tenants & self.tenants) | {PLATFORM}}


def key_of(owner: str) -> bytes:
    return hashlib.sha256(owner.encode()).digest()
