"""Tokens with a kid that their issuer's keys here do not have, where the issuer publishes its keys (JWKS).

Role inbox is asked to fetch them anew, which it does once per JWKS_COOLDOWN_S at most; until it has, such a token
may be good and is told to come again. Then, for JWKS_COOLDOWN_S, a kid that is still unknown is nobody's: ten
thousand forged kids cost the issuer one request.
"""

import itertools
from collections.abc import Iterable

from notification.codes import Refusal, Refusals
from notification.limits import JWKS_COOLDOWN_S, JWKS_MISSING_COUNT_MAX


class UnknownKeys:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._issuers: frozenset[str] = frozenset()
        self._asked_s: dict[str, float] = {}  # since when its keys are waited for
        self._fetched_s: dict[str, float] = {}

    def issuers(self, issuers: Iterable[str]) -> None:
        """Those with a JWKS, by the newest snapshot."""
        self._issuers = frozenset(issuers)
        for issuer in (self._asked_s.keys() | self._fetched_s.keys()) - self._issuers:
            self._asked_s.pop(issuer, None)
            self._fetched_s.pop(issuer, None)

    def judge(self, issuer: str | None, now_s: float) -> Refusal:
        """A token of `issuer` had an unknown kid: KEY_UNKNOWN_YET (the inbox is to be asked), UNAUTHENTICATED, or,
        without a JWKS, TENANT_UNKNOWN_YET."""
        if issuer is None or issuer not in self._issuers:
            return Refusals.TENANT_UNKNOWN_YET
        fetched_s = self._fetched_s.get(issuer)
        if fetched_s is not None and now_s < fetched_s + JWKS_COOLDOWN_S:
            return Refusals.UNAUTHENTICATED
        self._asked_s.setdefault(issuer, now_s)
        return Refusals.KEY_UNKNOWN_YET

    def asked(self, now_s: float) -> dict[str, int]:
        """Issuers whose keys are to be fetched anew: EdgeRequest.missing."""
        oldest = itertools.islice(self._asked_s.items(), JWKS_MISSING_COUNT_MAX)
        return {issuer: int((now_s - asked_s) * 1_000) for issuer, asked_s in oldest}

    def fetched(self, issuers: Iterable[str], now_s: float) -> None:
        """EdgeReply.fetched: the snapshot has the keys of these as they are now."""
        for issuer in issuers:
            if self._asked_s.pop(issuer, None) is not None:
                self._fetched_s[issuer] = now_s
