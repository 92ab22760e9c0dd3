"""The upgrade request, judged: bytes in, a decision out. No I/O, no clock of its own, never an exception.

A token in the Authorization header is answered by HTTP status. A browser cannot see that status, so a token
in the subprotocol is answered after the upgrade: an error frame, then a close.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

import msgspec

from gateway._fast import upgrade
from gateway.tokens import Asked, Identity
from notification.codes import Refusal, Refusals
from notification.errors import InvalidInput
from notification.frames import BEARER_PREFIX, CONNECT_PATH, SUBPROTOCOL, Cursor, cursor_from_text
from notification.ids import TOKEN_PATTERN, check_token

HEALTH_PATH: Final = "/health"
METRICS_PATH: Final = "/metrics"

_VERSION: Final = "13"  # RFC 6455 §4.1
_KEY: Final = re.compile("[A-Za-z0-9+/]{22}==", re.ASCII)  # base64 of 16 bytes, RFC 6455 §4.2.1
_OFFERED: Final = [SUBPROTOCOL]
_DEVICE_ONLY: Final = re.compile(rf"device=({TOKEN_PATTERN})", re.ASCII)
_REFUSED: Final = {
    refusal.status: refusal
    for refusal in (Refusals.MALFORMED, Refusals.METHOD, Refusals.TOO_MANY, Refusals.HEADERS_TOO_LARGE)
}


class Request(NamedTuple):
    """A parsed request head. `headers`: lower-case name -> its values in order."""

    method: str
    path: str
    query: str
    headers: dict[str, list[str]]

    def one(self, name: str) -> str | None:
        """The only value of a header; None when it is absent. Raises InvalidInput when it came twice."""
        values = self.headers.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise InvalidInput(name, "must come once")
        return values[0]

    def tokens(self, name: str) -> list[str]:
        """The comma-separated elements of all lines of a header."""
        return [part.strip() for value in self.headers.get(name, ()) for part in value.split(",") if part.strip()]


class Accepted(msgspec.Struct, frozen=True):
    """Upgrade. Without `identity` an auth frame must follow, or `refusal` is told in a frame and closed.

    `origin` is kept for the auth frame: a page's origin is judged once the tenant is known.
    """

    key: str
    identity: Identity | None
    refusal: Refusal | None
    device: str | None
    cursor: Cursor | None
    subprotocol: bool
    origin: str | None


class Judge(Protocol):
    """What the decision asks the edge snapshot."""

    def verify(self, token: str) -> Identity | Refusal | Asked: ...

    def origin_allowed(self, tenant: str, origin: str) -> bool: ...


def parse_head(head: bytes) -> Request | Refusal:
    """Parse a request head (without its empty line)."""
    return to_request(upgrade.parse(head))


def to_request(outcome: upgrade.Parsed | int) -> Request | Refusal:
    """What the parser found, or the refusal that its or the carrier's status stands for."""
    return _REFUSED[outcome] if isinstance(outcome, int) else Request(*outcome)


def decide(request: Request, judge: Judge) -> Accepted | Refusal | Asked:
    """Judge an upgrade request for CONNECT_PATH. TENANT_UNKNOWN_YET may change after a newer edge snapshot, Asked
    will with its answer."""
    if request.path != CONNECT_PATH:
        return Refusals.NOT_FOUND
    try:
        return _decide(request, judge)
    except InvalidInput:
        return Refusals.MALFORMED


def _decide(request: Request, judge: Judge) -> Accepted | Refusal | Asked:
    if not _upgrades(request):
        return Refusals.UPGRADE_REQUIRED
    key = request.one("sec-websocket-key") or ""
    if _KEY.fullmatch(key) is None:
        return Refusals.MALFORMED
    device, cursor = _query(request.query)
    offered: Sequence[str] = request.headers.get("sec-websocket-protocol", ())
    bearers: Sequence[str] = ()
    if offered and offered != _OFFERED:
        offered = request.tokens("sec-websocket-protocol")
        bearers = [name.removeprefix(BEARER_PREFIX) for name in offered if name.startswith(BEARER_PREFIX)]
        if (offered and SUBPROTOCOL not in offered) or len(bearers) > 1:
            return Refusals.MALFORMED
    authorization = request.one("authorization")
    origin = request.one("origin")
    identity: Identity | None = None
    refusal: Refusal | None = None
    if authorization is not None:
        if bearers:
            return Refusals.MALFORMED  # two tokens: which one is meant?
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Refusals.UNAUTHENTICATED
        outcome = judge_token(judge, token.strip(" "), origin)
        if not isinstance(outcome, Identity):
            return outcome
        identity = outcome
    elif bearers:
        outcome = judge_token(judge, bearers[0], origin)
        if isinstance(outcome, Identity):
            identity = outcome
        elif isinstance(outcome, Refusal):
            refusal = outcome
        else:
            return outcome
    return Accepted(key, identity, refusal, device, cursor, bool(offered), origin)


def judge_token(judge: Judge, token: str, origin: str | None) -> Identity | Refusal | Asked:
    """A token and the page it came from: the origin counts once the tenant is known."""
    outcome = judge.verify(token)
    if isinstance(outcome, Identity) and origin is not None and not judge.origin_allowed(outcome.tenant, origin):
        return Refusals.FORBIDDEN_ORIGIN
    return outcome


def unknown_yet(outcome: Accepted | Refusal) -> bool:
    """Did the decision stop at an issuer that a newer snapshot may know?"""
    refusal = outcome.refusal if isinstance(outcome, Accepted) else outcome
    return refusal is Refusals.TENANT_UNKNOWN_YET


def settle(outcome: Accepted | Refusal) -> Accepted | Refusal:
    """The issuer is unknown to a snapshot that was just checked: the token is not ours."""
    if isinstance(outcome, Accepted):
        return msgspec.structs.replace(outcome, refusal=Refusals.UNAUTHENTICATED)
    return Refusals.UNAUTHENTICATED


def _upgrades(request: Request) -> bool:
    """RFC 6455 §4.2.1; Firefox sends `Connection: keep-alive, Upgrade`."""
    return (
        _names(request, "upgrade", "websocket")
        and _names(request, "connection", "upgrade")
        and request.one("sec-websocket-version") == _VERSION
    )


def _names(request: Request, header: str, wanted: str) -> bool:
    """Is `wanted` (in lower case) among the elements of a header?"""
    values = request.headers.get(header, ())
    if len(values) == 1 and values[0].lower() == wanted:
        return True  # as nearly all clients say it
    return any(token.lower() == wanted for token in request.tokens(header))


def _query(query: str) -> tuple[str | None, Cursor | None]:
    """`device` and `cursor`; other names are ignored: a token in a URL is never looked at. Raises InvalidInput."""
    if not query:
        return None, None
    device_only = _DEVICE_ONLY.fullmatch(query)
    if device_only is not None:
        return device_only[1], None
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=16, errors="strict")
    except ValueError as error:
        raise InvalidInput("query", "must be at most 16 fields of percent-encoded UTF-8") from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidInput("query", "must name each field once")
    device, cursor = values.get("device"), values.get("cursor")
    return (
        None if device is None else check_token(device, "device"),
        None if cursor is None else cursor_from_text(cursor),
    )
