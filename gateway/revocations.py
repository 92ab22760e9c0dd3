"""Tokens that count no more: by jti, by user and by tenant, as the edge snapshot brings them.

A connection keeps of its token what a later revocation needs: its issue time and `token_digest` of its jti, 8 bytes
each, not the jti itself.
"""

import heapq
from collections.abc import Iterable

from gateway.tokens import Identity
from notification.messages import JTI, TENANT, USER, Revocation

Key = tuple[str, str, str]  # kind, tenant, value


def token_digest(tenant: str, jti: str) -> int:
    """64 bits of a token's name: Python's SipHash under the key of this process, so equal only for equal names (but
    for one pair in 2^64) and meaningless elsewhere."""
    return hash(f"{tenant} {jti}")


def whole_s(issued_s: float | None) -> int:
    """An issue time as connections keep it: whole Unix seconds, 0 = the token has none."""
    return max(0, int(issued_s or 0))


class Revocations:
    """What was revoked and has not expired. A question costs three look-ups however many there are."""

    def __init__(self) -> None:
        self._tokens: set[int] = set()
        self._users: dict[tuple[str, str], int] = {}  # (tenant, user) -> not_before_s
        self._tenants: dict[str, int] = {}  # tenant -> not_before_s
        self._expires_s: dict[Key, int] = {}
        self._queue: list[tuple[int, Key]] = []  # heap of (expires_s, key); an entry that moved has a later one

    def __len__(self) -> int:
        return len(self._expires_s)

    def add(self, revocations: Iterable[Revocation]) -> None:
        """Take new ones, or later states of known ones."""
        for one in revocations:
            if one.kind == JTI:
                self._tokens.add(token_digest(one.tenant, one.value))
            elif one.kind == USER:
                pair = (one.tenant, one.value)
                self._users[pair] = max(one.not_before_s, self._users.get(pair, 0))
            elif one.kind == TENANT:
                self._tenants[one.tenant] = max(one.not_before_s, self._tenants.get(one.tenant, 0))
            else:
                continue  # of a newer worker
            key = (one.kind, one.tenant, one.value)
            self._expires_s[key] = max(one.expires_s, self._expires_s.get(key, 0))
            heapq.heappush(self._queue, (self._expires_s[key], key))

    def expire(self, now_s: float) -> None:
        """Forget those whose tokens have expired by now (Unix time)."""
        while self._queue and self._queue[0][0] <= now_s:
            _, key = heapq.heappop(self._queue)
            if self._expires_s.get(key, now_s + 1) > now_s:
                continue
            del self._expires_s[key]
            kind, tenant, value = key
            if kind == JTI:
                self._tokens.discard(token_digest(tenant, value))
            elif kind == USER:
                del self._users[tenant, value]
            else:
                del self._tenants[tenant]

    def revoked(self, identity: Identity) -> bool:
        """Is the token of this identity revoked?"""
        if not self._expires_s:
            return False
        digest = token_digest(identity.tenant, identity.jti)
        return self.hit(identity.tenant, identity.user, digest, whole_s(identity.issued_s))

    def hit(self, tenant: str, user: str, digest: int, issued_s: int) -> bool:
        """The same of a connection, by token_digest and whole_s. A token without iat is hit by every revocation of
        its user or tenant."""
        return (
            digest in self._tokens
            or issued_s < self._users.get((tenant, user), 0)
            or issued_s < self._tenants.get(tenant, 0)
        )
