"""Tokens that an AuthService judges: what to ask it, what to believe of its answers and how long.

Whatever goes wrong lets nobody in. Tokens and claims are in no log line.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from gateway._fast import jwt
from gateway.breaker import Breaker
from gateway.clock import now_ms
from gateway.tokens import Asked, Claims, Identity, read_claims
from notification import telemetry
from notification.codes import Refusal, Refusals
from notification.errors import HeraldError
from notification.limits import (
    AUTH_SERVICE_ACTIVE_MS,
    AUTH_SERVICE_FAILURES_COUNT_MAX,
    AUTH_SERVICE_INACTIVE_MS,
    AUTH_SERVICE_LOG_MS,
    AUTH_SERVICE_OPEN_MS,
    AUTH_SERVICE_QUESTIONS_COUNT_MAX,
    AUTH_SERVICE_REQUESTS_COUNT_MAX,
    AUTH_SERVICE_WAIT_MS_MAX,
    TOKEN_BYTES_MAX,
    VERIFIED_TOKENS_CHARS_MAX,
    VERIFIED_TOKENS_COUNT_MAX,
)

_log = structlog.get_logger("introspection")

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # b64token of RFC 6750 §2.1
_JWT_DOTS: Final = 2  # RFC 7515 §3.1

Admit = Callable[[Claims], Awaitable[Identity | Refusal]]


class Away(HeraldError):
    """No answer; the text says why: it cannot be reached, is too slow, or has too much to do."""


class BadAnswer(HeraldError):
    """An answer that cannot be one; the text says why and repeats nothing of it."""


class Service(Protocol):
    """gateway/auth_service.py, which is loaded where one is configured."""

    async def ask(self, token: str) -> bytes:
        """The answer's JSON text. Raises Away, BadAnswer."""

    async def close(self) -> None: ...


class _Active(NamedTuple):
    claims: Claims
    until_ms: int  # believed until then, monotonic


class _Answer(msgspec.Struct, frozen=True, gc=False):
    """RFC 7662 §2.2, as far as it is not claims."""

    active: bool


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode


class Introspection:
    """Asks `service` about tokens: all of them (`everything`), or those that are not JWTs.

    Whoever asks about a token that is being asked about shares that question. "active" is believed for
    AUTH_SERVICE_ACTIVE_MS, as claims: their times, their issuer and revocations are judged at each use.
    """

    def __init__(self, service: Service, everything: bool) -> None:
        self._service = service
        self._everything = everything
        self._breaker = Breaker(AUTH_SERVICE_FAILURES_COUNT_MAX, AUTH_SERVICE_OPEN_MS)
        self._places = asyncio.Semaphore(AUTH_SERVICE_REQUESTS_COUNT_MAX)
        self._questions: dict[str, asyncio.Task[Identity | Refusal]] = {}
        # Two, so that made-up tokens do not crowd out good ones.
        self._active: jwt.Recent[_Active] = jwt.Recent(VERIFIED_TOKENS_COUNT_MAX, VERIFIED_TOKENS_CHARS_MAX)
        self._inactive: jwt.Recent[int] = jwt.Recent(VERIFIED_TOKENS_COUNT_MAX, VERIFIED_TOKENS_CHARS_MAX)
        self._complained_ms = -AUTH_SERVICE_LOG_MS

    async def close(self) -> None:
        """Give up what is being asked; those who wait hear AUTH_UNAVAILABLE."""
        tasks = list(self._questions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._service.close()

    def judges(self, token: str) -> bool:
        """Is it the AuthService that knows about this token?"""
        return self._everything or token.count(".") != _JWT_DOTS

    def recall(self, token: str) -> Claims | Refusal | None:
        """What the AuthService said lately: claims of an active token, or UNAUTHENTICATED; None: to be asked."""
        active = self._active.get(token)
        if active is not None and now_ms() < active.until_ms:
            return active.claims
        until_ms = self._inactive.get(token)
        return Refusals.UNAUTHENTICATED if until_ms is not None and now_ms() < until_ms else None

    def ask(self, token: str, admit: Admit) -> Asked | Refusal:
        """Ask about a token; `admit` makes an identity of the claims of an active one."""
        question = self._questions.get(token)
        if question is not None:
            return Asked(question)
        if len(token) > TOKEN_BYTES_MAX or _TOKEN.fullmatch(token) is None:
            return Refusals.UNAUTHENTICATED
        if len(self._questions) >= AUTH_SERVICE_QUESTIONS_COUNT_MAX:
            return self._unanswered("busy")
        if not self._breaker.admit(now_ms()):
            return self._unanswered("open")
        question = asyncio.get_running_loop().create_task(self._outcome(token, admit))
        self._questions[token] = question
        question.add_done_callback(lambda _: self._questions.pop(token))
        return Asked(question)

    async def _outcome(self, token: str, admit: Admit) -> Identity | Refusal:
        try:
            claims = await self._claims(token)
            return claims if isinstance(claims, Refusal) else await admit(claims)
        except Exception as error:  # a fault of ours lets nobody in, and leaves nobody waiting
            _log.error("introspection_failed", error=type(error).__name__, exc_info=error)
            return self._unanswered("failed")

    async def _claims(self, token: str) -> Claims | Refusal:
        try:
            async with asyncio.timeout(AUTH_SERVICE_WAIT_MS_MAX / 1_000):
                await self._places.acquire()
        except TimeoutError:
            return self._unanswered("busy")
        try:
            return await self._question(token)
        finally:
            self._places.release()

    async def _question(self, token: str) -> Claims | Refusal:
        started_s = time.monotonic()
        try:
            body = await self._service.ask(token)
        except Away as error:
            if self._breaker.failed(now_ms()):
                telemetry.AUTH_SERVICE_OPENED.inc()
                _log.error("auth_service_away", reason=str(error))
            return self._unanswered("away")
        except BadAnswer as error:
            self._answered()
            return self._malformed(str(error))
        self._answered()
        telemetry.AUTH_SERVICE_SECONDS.observe(time.monotonic() - started_s)
        return self._take(token, body)

    def _take(self, token: str, body: bytes) -> Claims | Refusal:
        """Read an answer, and remember it."""
        try:
            active = _decode_answer(body.decode()).active
        except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
            return self._malformed("no introspection response")
        claims = read_claims(body) if active else None
        if claims is None:
            # Active, but without the claims that a JWT must have: nobody that could be let in.
            _count("unfit" if active else "inactive")
            self._inactive.put(token, now_ms() + AUTH_SERVICE_INACTIVE_MS)
            return Refusals.UNAUTHENTICATED
        _count("active")
        self._active.put(token, _Active(claims, now_ms() + AUTH_SERVICE_ACTIVE_MS))
        return claims

    def _answered(self) -> None:
        if self._breaker.succeeded():
            _log.info("auth_service_back")

    def _unanswered(self, outcome: str) -> Refusal:
        _count(outcome)
        return Refusals.AUTH_UNAVAILABLE

    def _malformed(self, reason: str) -> Refusal:
        if now_ms() >= self._complained_ms + AUTH_SERVICE_LOG_MS:
            self._complained_ms = now_ms()
            _log.error("auth_service_answer_bad", reason=reason)
        return self._unanswered("malformed")


def _count(outcome: str) -> None:
    telemetry.AUTH_SERVICE_QUESTIONS.labels(outcome).inc()
