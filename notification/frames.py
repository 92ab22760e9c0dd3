"""Client protocol v1 (`herald.v1`): every JSON frame of either direction, discriminator `t`.

Servers encode with `encode`; decoding is strict (`forbid_unknown_fields` on client frames). A tolerant
client ignores what it does not know. docs/protocol.md is the prose of this file.
"""

import base64
import hashlib
from typing import Any, Final, Literal

import msgspec

from notification.codes import LANE_BY_NAME
from notification.errors import InvalidInput
from notification.limits import PAGE_ITEMS_DEFAULT, UNACKED_PER_CONNECTION_MAX

SUBPROTOCOL: Final = "herald.v1"
BEARER_PREFIX: Final = "bearer."
CONNECT_PATH: Final = "/ws/connect"


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device has: per lane (by name) the seq up to which it has everything, in log `epoch` (user_epoch)."""

    epoch: int
    at: dict[str, int] = {}


class Counters(msgspec.Struct, frozen=True):
    """Unread notifications of the user; a client ignores counters with an older `rev`."""

    unread: int
    rev: int


# --- server to client -------------------------------------------------------
class Action(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A button: `id` goes back to the app, `url` is opened by it."""

    id: str
    label: str
    url: str | None = None


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the user sees. `image` is an https URL; `data` is the app's own JSON."""

    title: str
    body: str
    image: str | None = None
    actions: list[Action] | None = None
    data: dict[str, Any] | None = None


class Notification(msgspec.Struct, frozen=True, tag_field="t", tag="n", omit_defaults=True):
    """One notification. `sent_at`, `expires_at` are Unix ms; `p` is the Payload as JSON."""

    lane: str
    seq: int
    id: str
    type: str
    priority: str
    sent_at: int
    expires_at: int
    p: msgspec.Raw
    collapse: str | None = None


class Welcome(msgspec.Struct, frozen=True, tag_field="t", tag="welcome"):
    """The session is open. `recovered`: true = what is owed follows; false = an inbox snapshot follows and
    the client drops what it held; "pending" = the inbox is away, live delivery goes on, `resumed` comes later."""

    session: str
    client_id: str
    heartbeat_s: int
    epoch: int
    recovered: bool | Literal["pending"]


class Resumed(msgspec.Struct, frozen=True, tag_field="t", tag="resumed"):
    """Everything owed has been written; `at` completes the cursor. `recovered` settles a "pending" welcome."""

    at: dict[str, int]
    counters: Counters
    recovered: bool


class CountersFrame(msgspec.Struct, frozen=True, tag_field="t", tag="counters"):
    """The user's counters changed."""

    unread: int
    rev: int


class StateFrame(msgspec.Struct, frozen=True, tag_field="t", tag="state"):
    """Notifications were marked on one of the user's devices (`to`: a value of STATES), or recalled (RECALLED)."""

    ids: list[str]
    to: str
    rev: int
    unread: int


class PageItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An inbox row: the notification frame and its flags."""

    n: msgspec.Raw
    read: bool = False
    seen: bool = False
    archived: bool = False


class PageFrame(msgspec.Struct, frozen=True, tag_field="t", tag="page", omit_defaults=True):
    """A page of the inbox, newest first; `next` is the `before` of the next page, absent on the last."""

    items: list[PageItem]
    counters: Counters
    next: str | None = None


class Pong(msgspec.Struct, frozen=True, tag_field="t", tag="pong"):
    """The answer to a client's `ping` frame."""


class Goaway(msgspec.Struct, frozen=True, tag_field="t", tag="goaway"):
    """Reconnect after `delay_ms`; the server closes 1012 soon after."""

    delay_ms: int


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="t", tag="error", omit_defaults=True):
    """`code` is a key of codes.ERRORS; `retry_ms` says when trying again makes sense."""

    code: str
    retry_ms: int | None = None


# --- client to server -------------------------------------------------------
STATES: Final = ("read", "unread", "seen", "archived", "unarchived")
State = Literal["read", "unread", "seen", "archived", "unarchived"]
RECALLED: Final = "recalled"  # StateFrame.to: by the sender; no client can ask for it


class Auth(msgspec.Struct, frozen=True, tag_field="t", tag="auth", forbid_unknown_fields=True):
    """The first frame of a connection without a token in its upgrade request."""

    token: str
    device: str | None = None
    cursor: Cursor | None = None


class Ack(msgspec.Struct, frozen=True, tag_field="t", tag="ack", forbid_unknown_fields=True):
    """The client has these safe: `ids`, or everything written up to and with `upto`."""

    ids: list[str] | None = None
    upto: str | None = None


class SetState(msgspec.Struct, frozen=True, tag_field="t", tag="state", forbid_unknown_fields=True):
    """Mark notifications on every device of the user."""

    ids: list[str]
    to: State


class Page(msgspec.Struct, frozen=True, tag_field="t", tag="page", forbid_unknown_fields=True):
    """Ask for inbox rows before the id `before` (absent: the newest)."""

    before: str | None = None
    limit: int = PAGE_ITEMS_DEFAULT


class Ping(msgspec.Struct, frozen=True, tag_field="t", tag="ping", forbid_unknown_fields=True):
    """For clients that cannot send WebSocket pings (browsers)."""


class Reauth(msgspec.Struct, frozen=True, tag_field="t", tag="reauth", forbid_unknown_fields=True):
    """A fresh token for the same tenant, user and device on a live connection."""

    token: str


ClientFrame = Auth | Ack | SetState | Page | Ping | Reauth
ServerFrame = Notification | Welcome | Resumed | CountersFrame | StateFrame | PageFrame | Pong | Goaway | ErrorFrame

IDS_PER_FRAME_MAX: Final = UNACKED_PER_CONNECTION_MAX

_encoder: Final = msgspec.json.Encoder()
_client_decoder: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)
_server_decoder: Final[msgspec.json.Decoder[ServerFrame]] = msgspec.json.Decoder(ServerFrame)
_cursor_decoder: Final = msgspec.json.Decoder(Cursor)


def encode(frame: ClientFrame | ServerFrame) -> bytes:
    """The JSON text of a frame."""
    return _encoder.encode(frame)


def decode_client(message: bytes) -> ClientFrame:
    """Decode what a client sent. Raises InvalidInput; the text never echoes the input."""
    try:
        return _client_decoder.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput("frame", "is not a frame of herald.v1") from error


def decode_server(message: bytes | str) -> ServerFrame:
    """Decode what a server sent (Python client, tests). Raises msgspec.DecodeError."""
    return _server_decoder.decode(message)


def check_cursor(cursor: Cursor) -> Cursor:
    """Lane names known, numbers in range. Raises InvalidInput."""
    if not 0 <= cursor.epoch < 2**53:
        raise InvalidInput("cursor", "epoch must be a number the server gave")
    for lane, seq in cursor.at.items():
        if lane not in LANE_BY_NAME or not 0 <= seq < 2**53:
            raise InvalidInput("cursor", "at must map lane names to numbers the server gave")
    return cursor


def user_epoch(log_epoch: int, tenant: str, user: str) -> int:
    """What clients know as `epoch`: it names the incarnation of the log and whose lanes the seqs count.

    So a cursor that was kept for another account on the same device is one of an unknown epoch. No secret, and
    nothing to gain by guessing it: a cursor decides only what its own user is sent again. 48 bits: exact in JSON.
    """
    return int.from_bytes(hashlib.sha256(f"{log_epoch}:{tenant}:{user}".encode()).digest()[:6], "big")


def cursor_to_text(cursor: Cursor) -> str:
    """A cursor for the query string: base64url of its JSON, without padding."""
    return base64.urlsafe_b64encode(_encoder.encode(cursor)).rstrip(b"=").decode("ascii")


def cursor_from_text(text: str) -> Cursor:
    """The inverse of cursor_to_text; strict. Raises InvalidInput."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = _cursor_decoder.decode(raw)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput("cursor", "must be base64url of {epoch, at} as JSON") from error
    return check_cursor(cursor)
