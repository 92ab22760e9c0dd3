"""The upgrade request, judged: bytes in, a decision out. No I/O, no clock of its own, never an exception.

A token in the Authorization header is answered by HTTP status. A browser cannot see that status, so a token
in the subprotocol is answered after the upgrade: an error frame, then a close.
"""

import base64
import binascii
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

from gateway._fast import upgrade
from gateway.tokens import Identity
from notification.codes import Refusal, Refusals
from notification.errors import InvalidInput
from notification.frames import BEARER_PREFIX, CONNECT_PATH, SUBPROTOCOL, Cursor, cursor_from_text
from notification.ids import check_token

HEALTH_PATH: Final = "/health"
METRICS_PATH: Final = "/metrics"

_VERSION: Final = "13"  # RFC 6455 §4.1
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


class Accepted(NamedTuple):
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

    def verify(self, token: str) -> Identity | Refusal: ...

    def origin_allowed(self, tenant: str, origin: str) -> bool: ...


def parse_head(head: bytes) -> Request | Refusal:
    """Parse a request head (without its empty line)."""
    return to_request(upgrade.parse(head))


def to_request(outcome: upgrade.Parsed | int) -> Request | Refusal:
    """What the parser found, or the refusal that its or the carrier's status stands for."""
    return _REFUSED[outcome] if isinstance(outcome, int) else Request(*outcome)


def decide(request: Request, judge: Judge) -> Accepted | Refusal:
    """Judge an upgrade request for CONNECT_PATH. TENANT_UNKNOWN_YET may change after a newer edge snapshot."""
    if request.path != CONNECT_PATH:
        return Refusals.NOT_FOUND
    try:
        return _decide(request, judge)
    except InvalidInput:
        return Refusals.MALFORMED


def _decide(request: Request, judge: Judge) -> Accepted | Refusal:
    if not _upgrades(request):
        return Refusals.UPGRADE_REQUIRED
    key = request.one("sec-websocket-key") or ""
    if not _valid_key(key):
        return Refusals.MALFORMED
    device, cursor = _query(request.query)
    offered = request.tokens("sec-websocket-protocol")
    bearers = [name.removeprefix(BEARER_PREFIX) for name in offered if name.startswith(BEARER_PREFIX)]
    if (offered and SUBPROTOCOL not in offered) or len(bearers) > 1:
        return Refusals.MALFORMED
    authorization = request.one("authorization")
    origin = request.one("origin")
    accepted = Accepted(key, None, None, device, cursor, bool(offered), origin)
    if authorization is not None:
        if bearers:
            return Refusals.MALFORMED  # two tokens: which one is meant?
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Refusals.UNAUTHENTICATED
        outcome = judge_token(judge, token.strip(" "), origin)
        return outcome if isinstance(outcome, Refusal) else accepted._replace(identity=outcome)
    if bearers:
        outcome = judge_token(judge, bearers[0], origin)
        if isinstance(outcome, Refusal):
            return accepted._replace(refusal=outcome)
        return accepted._replace(identity=outcome)
    return accepted


def judge_token(judge: Judge, token: str, origin: str | None) -> Identity | Refusal:
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
        return outcome._replace(refusal=Refusals.UNAUTHENTICATED)
    return Refusals.UNAUTHENTICATED


def _upgrades(request: Request) -> bool:
    """RFC 6455 §4.2.1; Firefox sends `Connection: keep-alive, Upgrade`."""
    return (
        any(token.lower() == "websocket" for token in request.tokens("upgrade"))
        and any(token.lower() == "upgrade" for token in request.tokens("connection"))
        and request.one("sec-websocket-version") == _VERSION
    )


def _valid_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _query(query: str) -> tuple[str | None, Cursor | None]:
    """`device` and `cursor`; other names are ignored: a token in a URL is never looked at. Raises InvalidInput."""
    if not query:
        return None, None
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
