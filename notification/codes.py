"""The one table of codes: lanes, states, status codes, close codes, refusals, error frames.

docs/events.md prints STATUS; docs/protocol.md prints CLOSES, REFUSALS and ERRORS; a test holds them to this file.
"""

import enum
from typing import Final, NamedTuple


class Lane(enum.IntEnum):
    """{direct, audience} x {high, medium, low}; the number is the one on the bus and in PostgreSQL."""

    DIRECT_HIGH = 0
    DIRECT_MEDIUM = 1
    DIRECT_LOW = 2
    AUDIENCE_HIGH = 3
    AUDIENCE_MEDIUM = 4
    AUDIENCE_LOW = 5

    @property
    def wire(self) -> str:
        """The name in client frames and cursors: `direct.high`."""
        return LANE_NAMES[self]

    @property
    def priority(self) -> int:
        """0 high, 1 medium, 2 low."""
        return self % 3


LANE_NAMES: Final = (
    "direct.high", "direct.medium", "direct.low", "audience.high", "audience.medium", "audience.low",
)  # fmt: skip
LANE_COUNT: Final = len(LANE_NAMES)
LANE_BY_NAME: Final = {name: Lane(number) for number, name in enumerate(LANE_NAMES)}


class Rank(enum.IntEnum):
    """A write names the rank it replaces; rank only rises (an ack of a sent id beats a terminal state)."""

    ACCEPTED = 0
    IN_FLIGHT = 1
    TERMINAL = 2
    DELIVERED = 3
    READ = 4


class Status(enum.StrEnum):
    """The lifecycle of one notification for one user."""

    ACCEPTED = "ACCEPTED"
    DISPATCHED = "DISPATCHED"
    PARKED = "PARKED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    COLLAPSED = "COLLAPSED"
    DEAD = "DEAD"
    DELIVERED = "DELIVERED"
    READ = "READ"


RANKS: Final = {
    Status.ACCEPTED: Rank.ACCEPTED,
    Status.DISPATCHED: Rank.IN_FLIGHT,
    Status.PARKED: Rank.IN_FLIGHT,
    Status.EXPIRED: Rank.TERMINAL,
    Status.CANCELLED: Rank.TERMINAL,
    Status.COLLAPSED: Rank.TERMINAL,
    Status.DEAD: Rank.TERMINAL,
    Status.DELIVERED: Rank.DELIVERED,
    Status.READ: Rank.READ,
}


class StatusCode(enum.IntEnum):
    """Why a notification is where it is: `status_code` of notifications and notification_history."""

    ACCEPTED = 100
    SENT = 200
    SENT_RETRY = 201
    SENT_UNKNOWN_PRESENCE = 202
    PARKED_OFFLINE = 300
    PARKED_RETRIES_SPENT = 301
    PARKED_GATEWAY_GONE = 302
    EXPIRED_TTL = 400
    CANCELLED_RECALL = 410
    CANCELLED_OPTED_OUT = 411
    COLLAPSED_NEWER = 420
    DEAD_CRASHES = 430
    DELIVERED_ACK = 500
    READ_BY_USER = 600


STATUS_TEXT: Final = {
    StatusCode.ACCEPTED: "stored; due for its first send",
    StatusCode.SENT: "handed to the gateway processes that hold the user's connections",
    StatusCode.SENT_RETRY: "handed over again because no ack came in time",
    StatusCode.SENT_UNKNOWN_PRESENCE: "handed to every gateway process because presence was unknown",
    StatusCode.PARKED_OFFLINE: "the user has no connection; replayed on the next connect",
    StatusCode.PARKED_RETRIES_SPENT: "three retries without an ack; replayed on the next connect",
    StatusCode.PARKED_GATEWAY_GONE: "the gateway process is gone; replayed on the next connect",
    StatusCode.EXPIRED_TTL: "its time to live ran out before an ack",
    StatusCode.CANCELLED_RECALL: "recalled by its sender; no device shows it any more",
    StatusCode.CANCELLED_OPTED_OUT: "the user has turned this type or topic off; it was never sent",
    StatusCode.COLLAPSED_NEWER: "a newer notification of its collapse key replaced it before an ack",
    StatusCode.DEAD_CRASHES: "reserved: given up after it was stored",
    StatusCode.DELIVERED_ACK: "a device of the user acknowledged it",
    StatusCode.READ_BY_USER: "the user read it",
}


class ReceiptCode(enum.IntEnum):
    """A gateway's answer per item of a batch; never proof of delivery."""

    WRITTEN = 0
    NO_CONNECTION = 1
    FULL = 2  # connected but behind: the session will fetch it from the log itself
    STALE = 3  # the process is draining: look presence up again
    EXPIRED = 4


class Close(NamedTuple):
    """A WebSocket close: `code`, `reason` (sent in the frame), whether a client should reconnect."""

    code: int
    reason: str
    reconnect: bool


class Closes:
    """Close codes of ours and those of RFC 6455 §7.4.1 that we send."""

    NORMAL: Final = Close(1000, "", False)
    PROTOCOL_ERROR: Final = Close(1002, "protocol error", False)
    UNSUPPORTED_DATA: Final = Close(1003, "text frames only", False)
    INVALID_TEXT: Final = Close(1007, "invalid UTF-8", False)
    TOO_BIG: Final = Close(1009, "message too big", False)
    INTERNAL: Final = Close(1011, "internal error", True)
    DRAIN: Final = Close(1012, "service restart", True)
    BAD_FRAMES: Final = Close(4400, "bad frames", False)
    TOKEN_EXPIRED: Final = Close(4401, "token expired", True)
    REVOKED: Final = Close(4403, "revoked or suspended", False)
    AUTH_TIMEOUT: Final = Close(4408, "no auth in time", True)
    REPLACED: Final = Close(4409, "replaced by the same device", False)
    TOO_SLOW: Final = Close(4410, "too slow", True)
    TOO_FAST: Final = Close(4429, "too fast", True)


CLOSES: Final = tuple(value for value in vars(Closes).values() if isinstance(value, Close))


class Refusal(NamedTuple):
    """An answer before the upgrade: HTTP status, fixed body, extra headers. Nothing of the input is echoed."""

    status: int
    code: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        return b'{"error":"' + self.code.encode() + b'"}\n'


class Refusals:
    """Every refusal at the door."""

    MALFORMED: Final = Refusal(400, "malformed")
    UNAUTHENTICATED: Final = Refusal(401, "token", (("WWW-Authenticate", 'Bearer error="invalid_token"'),))
    REVOKED: Final = Refusal(401, "revoked", (("WWW-Authenticate", 'Bearer error="invalid_token"'),))
    FORBIDDEN_ORIGIN: Final = Refusal(403, "origin")
    SUSPENDED: Final = Refusal(403, "suspended")
    NOT_FOUND: Final = Refusal(404, "not_found")
    METHOD: Final = Refusal(405, "method", (("Allow", "GET"),))
    UPGRADE_REQUIRED: Final = Refusal(426, "upgrade", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
    TOO_MANY: Final = Refusal(429, "too_many_connections", (("Retry-After", "5"),))
    HEADERS_TOO_LARGE: Final = Refusal(431, "headers")
    OVERLOADED: Final = Refusal(503, "overloaded", (("Retry-After", "1"),))
    DRAINING: Final = Refusal(503, "draining", (("Retry-After", "1"),))
    TENANT_UNKNOWN_YET: Final = Refusal(503, "tenant_not_yet_known", (("Retry-After", "1"),))
    KEY_UNKNOWN_YET: Final = Refusal(503, "key_not_yet_known", (("Retry-After", "1"),))
    AUTH_UNAVAILABLE: Final = Refusal(503, "auth_unavailable", (("Retry-After", "1"),))


REFUSALS: Final = tuple(value for value in vars(Refusals).values() if isinstance(value, Refusal))

# `code` of an `error` frame -> what it means. The token's refusals use Refusal.code as well.
ERRORS: Final = {
    "token": "the token is missing, malformed, expired, or not signed by a key of its issuer",
    "revoked": "the token was revoked; a fresh one may be good",
    "origin": "the page's origin is not on the tenant's list",
    "suspended": "the tenant is suspended",
    "tenant_not_yet_known": "the gateway has not seen this tenant yet; retry",
    "key_not_yet_known": "the issuer's keys are fetched anew because this one is not among them; retry",
    "auth_unavailable": "the service that judges this token gave no answer; retry",
    "bad_frame": "a frame is not JSON, not an object, or breaks the protocol; the third closes 4400",
    "busy": "what this connection asked before is under way still, or the inbox did not answer in time; retry",
    "device_mismatch": "reauth may not change tenant, user or device",
    "too_many_connections": "the tenant already has the most connections allowed; retry",
    "too_many_devices": "the user already has the most devices allowed",
}
