"""The edge snapshot: what a gateway process knows of tenants, origins, keys and revocations. Role inbox is asked
over the bus, each EDGE_POLL_MS and at once when a hint says that something changed.

The last copy serves while the inbox is away.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import structlog

from gateway._fast.peers import FLOODING, Peers
from gateway._fast.session import Session
from gateway.introspection import Introspection
from gateway.revocations import Revocations
from gateway.tenant_pages import TenantPages
from gateway.tokens import Asked, Claims, Identity, Keys, claimed_issuer
from gateway.unknown_keys import UnknownKeys
from notification import names
from notification.bus import Bus
from notification.codes import Refusal, Refusals
from notification.errors import BusError, Unavailable
from notification.lifecycle import essential
from notification.limits import (
    BUS_REQUEST_TIMEOUT_MS,
    EDGE_HINT_SPREAD_MS,
    EDGE_JITTER_MAX,
    EDGE_POLL_MS,
    EDGE_REFRESH_MS_MIN,
)
from notification.messages import EdgeReply, EdgeRequest, Revocation, decode_reply, encode

_log = structlog.get_logger("edge")

_FIRST_POLL_MS: Final = 250  # until the first snapshot is here


class Change(NamedTuple):
    """What a new snapshot brought: other `tenants` or keys, new `revocations`, a `new_log` (another epoch)."""

    tenants: bool
    revocations: list[Revocation]
    new_log: bool = False


class Edge:
    """Keeps the snapshot; `changed` is called after each change of it. `introspection`: where an AuthService is
    configured; `askers` counts who waits for it."""

    def __init__(
        self, bus: Bus, changed: Callable[[Change], None], introspection: Introspection | None = None,
        askers: Peers | None = None,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._changed = changed
        self._introspection = introspection
        self._askers = Peers((), 0) if askers is None else askers
        self._keys = Keys(())
        self._version = -1
        self._pages = TenantPages()
        self._revocations = Revocations()
        self._revocations_version = 0
        self._unknown = UnknownKeys()
        self._asked_s = -EDGE_REFRESH_MS_MIN / 1_000
        self._wake = asyncio.Event()
        self._refresh: asyncio.Future[bool] | None = None
        self._hint: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.epoch = 0
        self.known = False  # a whole snapshot was received

    async def start(self) -> None:
        await self._bus.serve(names.EDGE_CHANGED, self._told)
        self._task = essential(self._run())

    async def close(self) -> None:
        if self._hint is not None:
            self._hint.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._refresh is not None and not self._refresh.done():
            self._refresh.set_result(False)

    def of(self, peer: str) -> "Asker":
        """Who judges the tokens that come from a client's address."""
        return Asker(self, peer)

    def verify(self, token: str, peer: str) -> Identity | Refusal | Asked:
        """Keys.verify by the wall clock; or REVOKED; or KEY_UNKNOWN_YET, while the keys of its issuer are fetched.
        TENANT_UNKNOWN_YET may change after refresh(); with_answer() judges the token of what was Asked. TOO_MANY:
        `peer`, the client's address, waits for as many answers as it may."""
        if self._introspection is not None and self._introspection.judges(token):
            return self._introspect(token, peer, self._introspection)
        outcome = self._keys.verify(token, time.time())
        if isinstance(outcome, Identity) and self._revocations.revoked(outcome):
            return Refusals.REVOKED
        if outcome is Refusals.TENANT_UNKNOWN_YET:
            outcome = self._unknown.judge(claimed_issuer(token), time.monotonic())
            if outcome is Refusals.KEY_UNKNOWN_YET:
                self.refresh()
        return outcome

    def _introspect(self, token: str, peer: str, introspection: Introspection) -> Identity | Refusal | Asked:
        if not self.known:  # no issuer either: an answer could not be believed
            return Refusals.TENANT_UNKNOWN_YET
        claims = introspection.recall(token)
        if claims is None:
            return self._ask_service(token, peer, introspection)
        return claims if isinstance(claims, Refusal) else self._vouched(claims)

    def _ask_service(self, token: str, peer: str, introspection: Introspection) -> Asked | Refusal:
        """Whoever waits counts, also where it shares a question: it holds a door."""
        ticket = self._askers.enter(peer)
        if ticket == FLOODING or self._askers.crowded(ticket):
            self._askers.leave(ticket)
            return Refusals.TOO_MANY
        asked = introspection.ask(token, self._admit)
        if isinstance(asked, Asked):
            asked.then(lambda _: self._askers.leave(ticket))
        else:
            self._askers.leave(ticket)
        return asked

    def _vouched(self, claims: Claims) -> Identity | Refusal:
        outcome = self._keys.vouched(claims, time.time())
        if isinstance(outcome, Identity) and self._revocations.revoked(outcome):
            return Refusals.REVOKED
        return outcome

    async def _admit(self, claims: Claims) -> Identity | Refusal:
        """_vouched, by a newer snapshot if this one does not know the issuer."""
        outcome = self._vouched(claims)
        if outcome is Refusals.TENANT_UNKNOWN_YET:
            answered = await asyncio.shield(self.refresh())  # others wait for it too
            outcome = self._vouched(claims)
            if outcome is Refusals.TENANT_UNKNOWN_YET and answered:
                outcome = Refusals.UNAUTHENTICATED
        return outcome

    def with_answer(self, outcome: Identity | Refusal) -> "Answered":
        """Who judges the token that this is the AuthService's answer to."""
        return Answered(self, outcome)

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return self._keys.origin_allowed(tenant, origin)

    def refusal(self, identity: Identity) -> Refusal | None:
        """What has barred a token since it was verified: it was revoked, or its tenant suspended."""
        if self._revocations.revoked(identity):
            return Refusals.REVOKED
        return Refusals.SUSPENDED if self._keys.suspended(identity.tenant) else None

    def barred(self, session: Session) -> bool:
        """May this connection not stay: its token revoked, its tenant suspended or gone?"""
        tenant = session.tenant
        return self._keys.suspended(tenant) or self._revocations.hit(
            tenant, session.user, session.token_digest, session.token_issued_s
        )

    def refresh(self) -> "asyncio.Future[bool]":
        """Ask soon (at most once per EDGE_REFRESH_MS_MIN); all who wait share one request that starts after this
        call. The result says whether the inbox answered."""
        if self._refresh is None:
            self._refresh = asyncio.get_running_loop().create_future()
            self._wake.set()
        return self._refresh

    async def _told(self, subject: str, payload: bytes) -> None:
        """Something changed: ask, but not in the same moment as every other process."""
        if self._hint is None:
            pause_s = EDGE_HINT_SPREAD_MS / 1_000 * random.random()  # noqa: S311 jitter
            self._hint = asyncio.get_running_loop().call_later(pause_s, self._ask_after_hint)

    def _ask_after_hint(self) -> None:
        self._hint = None
        self.refresh()

    async def _run(self) -> None:
        while True:
            since_s = time.monotonic() - self._asked_s
            await asyncio.sleep(max(0.0, EDGE_REFRESH_MS_MIN / 1_000 - since_s) if self.known else 0)
            waiting, self._refresh = self._refresh, None
            self._wake.clear()
            self._asked_s = time.monotonic()
            answered = await self._poll()
            if waiting is not None and not waiting.done():
                waiting.set_result(answered)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_ms(answered) / 1_000):
                    await self._wake.wait()

    def _pause_ms(self, answered: bool) -> float:
        if not self.known:
            return _FIRST_POLL_MS
        if not answered:
            return EDGE_REFRESH_MS_MIN
        return EDGE_POLL_MS * random.uniform(1 - EDGE_JITTER_MAX, 1 + EDGE_JITTER_MAX)  # noqa: S311 jitter

    async def _poll(self) -> bool:
        """Ask until everything is here; True if it was answered."""
        while (reply := await self._ask()) is not None:
            if not self._take(reply):
                self.known = True
                return True
        return False

    async def _ask(self) -> EdgeReply | None:
        request = encode(
            EdgeRequest(
                self._version, self._revocations_version, self._unknown.asked(time.monotonic()), self._pages.after
            )
        )
        try:
            answer = await self._bus.request(names.INBOX_EDGE, request, BUS_REQUEST_TIMEOUT_MS / 1_000)
            reply = decode_reply(answer)
        except (BusError, Unavailable, msgspec.DecodeError) as error:
            _log.debug("edge_poll_failed", error=type(error).__name__)
            return None
        return reply if isinstance(reply, EdgeReply) else None

    def _take(self, reply: EdgeReply) -> bool:
        """Take a reply over; True if there is more to ask for."""
        # PostgreSQL went back in time: its revocations are numbered anew. What is known here still counts.
        renumbered = self._revocations_version > 0 and (
            reply.epoch != self.epoch or reply.revocations_version < self._revocations_version
        )
        new_log = self.epoch not in (0, reply.epoch)
        self.epoch = reply.epoch
        self._revocations.expire(time.time())
        self._revocations.add(reply.revocations)
        self._revocations_version = 0 if renumbered else reply.revocations_version
        whole = self._pages.take(reply, self._keys)
        if whole is not None:
            self._keys = whole.keys
            self._version = whole.version
            self._unknown.issuers(whole.jwks_issuers)
        if self._version == reply.version and not self._pages.unfinished:
            self._unknown.fetched(reply.fetched, time.monotonic())
        if whole is not None or reply.revocations or new_log:
            _log.info(
                "edge_snapshot", version=self._version,
                tenants=len(self._keys.tenants), revocations=len(self._revocations),
            )  # fmt: skip
            self._changed(Change(whole is not None, reply.revocations, new_log))
        return renumbered or reply.more or self._pages.unfinished


class Asker:
    """The edge, for a client at one address."""

    def __init__(self, edge: Edge, peer: str) -> None:
        self._edge = edge
        self._peer = peer

    def verify(self, token: str) -> Identity | Refusal | Asked:
        return self._edge.verify(token, self._peer)

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return self._edge.origin_allowed(tenant, origin)


class Answered:
    """The edge, for one token that the AuthService has answered about."""

    def __init__(self, edge: Edge, outcome: Identity | Refusal) -> None:
        self._edge = edge
        self._outcome = outcome

    def verify(self, token: str) -> Identity | Refusal:
        """The answer, unless the token was revoked or its tenant suspended since."""
        if isinstance(self._outcome, Identity):
            return self._edge.refusal(self._outcome) or self._outcome
        return self._outcome

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return self._edge.origin_allowed(tenant, origin)
