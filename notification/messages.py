"""MessagePack messages between gateway and worker: inbox requests, edge snapshot, receipts, beats.

Every request to role inbox is answered by its reply or by a Failure. All structs are array-like on the
wire: fields may only be appended, with a default.
"""

from typing import Final, TypeVar

import msgspec

from notification.codes import LANE_COUNT
from notification.frames import Counters, Cursor

T = TypeVar("T")


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Array on the wire; `tag` (first element) tells unions apart."""


# --- role inbox -------------------------------------------------------------
class Failure(_Message, frozen=True, tag="failure"):
    """The request was not served: `code` is a key of codes.ERRORS."""

    code: str


class FillRequest(_Message, frozen=True, tag="fill"):
    """What does this connection owe? `at` has LANE_COUNT seqs it already has; -1 = nothing known of the lane.

    A first request (`first`) carries the client's cursor or None ("everything live"); later ones (a gap, a
    full window that opened, more of a long answer) carry `at` only.
    """

    tenant: str
    user: str
    first: bool
    cursor: Cursor | None
    at: list[int]
    limit: int


class FillItem(_Message, frozen=True):
    """One entry of a lane, as batch.Item has it."""

    lane: int
    seq: int
    prev: int
    expiry_ms: int
    id: bytes
    body: bytes


class FillReply(_Message, frozen=True, tag="filled"):
    """Items in lane order; after writing them the connection is complete up to `at` (LANE_COUNT seqs).

    `epoch`: frames.user_epoch. `recovered` False: the cursor could not be honoured (unknown epoch, ahead, too old,
    over OWED_ITEMS_MAX owed): the items are an inbox snapshot. `more`: ask again with the new `at`. `database_ms`:
    Unix ms.
    """

    epoch: int
    recovered: bool
    items: list[FillItem]
    at: list[int]
    more: bool
    counters: Counters
    database_ms: int


class FillsRequest(_Message, frozen=True, tag="fills"):
    """What do these connections owe? At most FILLS_COUNT_MAX questions of one gateway process."""

    fills: list[FillRequest]


class FillsReply(_Message, frozen=True, tag="fills"):
    """An answer per question, in order: all items together keep FILL_BYTES_MAX and FILLS_ITEMS_MAX, so that what a
    question is owed may come in parts (`more`) although its own limit was not reached. A question that breaks a
    rule is answered "bad_frame", one that cannot be answered "busy"; the others are not held up by it."""

    replies: list[FillReply | Failure]


class StateRequest(_Message, frozen=True, tag="state"):
    """Set flags of a user's notifications (16-byte ids); `to` is one of frames.STATES."""

    tenant: str
    user: str
    device: str
    ids: list[bytes]
    to: str


class StateReply(_Message, frozen=True, tag="stated"):
    """The counters after the change. `told`: the `state` frame itself reaches all devices over the bus. Else
    nothing changed, and it is for who asked alone: `found` are those of its ids that there are."""

    counters: Counters
    found: list[bytes] = []
    told: bool = True


class PageRequest(_Message, frozen=True, tag="page"):
    """A page of the inbox before a 16-byte id (empty: the newest)."""

    tenant: str
    user: str
    before: bytes
    limit: int


class PageReply(_Message, frozen=True, tag="paged"):
    """`frame`: the JSON text of a frames.PageFrame, ready to write."""

    frame: bytes


class RecallRequest(_Message, frozen=True, tag="recall"):
    """Take a notification (16-byte id) back from `user`, or from everybody it went to (""). Asked again while the
    reply says `more`."""

    tenant: str
    id: bytes
    user: str = ""


class RecallReply(_Message, frozen=True, tag="recalled"):
    """From how many users this request took it back: RECALL_USERS_COUNT_MAX at most, then there may be `more`;
    those from whom it was taken before do not count. `known`: the tenant has such a notification (for `user`)."""

    users: int
    known: bool
    more: bool


class EntitledRequest(_Message, frozen=True, tag="entitled"):
    """Who of `users` (ENTITLED_USERS_COUNT_MAX at most, one may stand there twice) may have the audience entry
    `seq` of `lane` (3 to 5)? Whatever has become of it since: the gateway judges its expiry."""

    tenant: str
    lane: int
    seq: int
    users: list[str]


class EntitledReply(_Message, frozen=True, tag="entitled"):
    """One bit per user, in order, the first in the highest bit of the first byte; bits past the last user are 0.
    Nobody may have an entry that does not exist."""

    bits: bytes


class AudienceFillRequest(_Message, frozen=True, tag="audience_fill"):
    """What lies in the tenant's audience lane (3 to 5) after seq `after`, whoever it is for? A gateway process
    asks, once for all its connections."""

    tenant: str
    lane: int
    after: int


class AudienceFillReply(_Message, frozen=True, tag="audience_filled"):
    """The lane's live entries by seq, FILL_ITEMS_MAX and FILL_BYTES_MAX at most. `everyone`, per item: the whole
    tenant may have it; else the gateway has to ask who. The lane is complete up to seq `at`; `more`: ask again from
    there. `database_ms`: Unix ms."""

    items: list[FillItem]
    everyone: list[bool]
    at: int
    more: bool
    database_ms: int


class EdgeRequest(_Message, frozen=True, tag="edge"):
    """The edge snapshot, unless its version is still `have`, and the revocations after `revocations_have`.

    `missing`: issuers with a JWKS, of which tokens came with a kid that the snapshot does not have, and how many ms
    ago the first one did; at most JWKS_MISSING_COUNT_MAX. `after_tenant`: the tenants that follow it.
    """

    have: int
    revocations_have: int = 0
    missing: dict[str, int] = {}
    after_tenant: str = ""


class EdgeKey(_Message, frozen=True):
    """One verification key of an issuer: the algorithm is pinned to the key (RFC 8725 §3.1).

    `key`: the HMAC secret, or a public key as PEM. `kid` "" = the issuer's key for tokens without kid.
    """

    issuer: str
    audience: str
    kid: str
    algorithm: str
    key: bytes


class EdgeTenant(_Message, frozen=True):
    """What a gateway must know of a tenant. `status`: "active" or "suspended". `jwks_issuers`: those whose keys may
    change any time."""

    tenant: str
    status: str
    origins: list[str]
    keys: list[EdgeKey]
    jwks_issuers: list[str] = []


class Revocation(_Message, frozen=True):
    """Tokens of a tenant that count no more until `expires_s` (Unix): the one whose jti is `value` (kind JTI), or
    those of user `value` (USER) or of everybody (TENANT, "") that were issued before `not_before_s` (Unix)."""

    tenant: str
    kind: str
    value: str
    not_before_s: int
    expires_s: int


class EdgeReply(_Message, frozen=True, tag="edges"):
    """A page of the snapshot of `version`; `epoch`: the log's epoch.

    `tenants` after the request's `after_tenant`, by id, EDGE_PAGE_BYTES_MAX of them; None when `have` was current.
    `tenants_more`: others follow the last one. Who asks for them may hear of another `version`.

    `revocations`: those that count and are younger than the request's `revocations_have`, in order, at most
    REVOCATIONS_REPLY_COUNT_MAX; `revocations_version` is how far they reach; `more`: ask again from there.
    `fetched`: which of the request's `missing` were fetched since they were first missed; their keys are here.
    """

    version: int
    epoch: int
    tenants: list[EdgeTenant] | None
    revocations: list[Revocation] = []
    revocations_version: int = 0
    more: bool = False
    fetched: list[str] = []
    tenants_more: bool = False


InboxRequest = (
    FillsRequest | StateRequest | PageRequest | EdgeRequest | RecallRequest | EntitledRequest | AudienceFillRequest
)
InboxReply = (
    FillsReply | StateReply | PageReply | EdgeReply | RecallReply | EntitledReply | AudienceFillReply | Failure
)


# --- gateway to receipts ----------------------------------------------------
class AckReceipt(_Message, frozen=True):
    """A device acknowledged a notification that was written to it. `at_ms`: Unix ms at the gateway."""

    tenant: str
    user: str
    device: str
    lane: int
    seq: int
    id: bytes
    at_ms: int


class ConnectionReceipt(_Message, frozen=True):
    """A connection opened ("open") or ended ("close", with the close `code`)."""

    event: str
    connection_id: str
    tenant: str
    user: str
    device: str
    code: int
    at_ms: int


class ReceiptsEntry(_Message, frozen=True):
    """One entry of the Redis stream; `number` counts a gateway boot's entries from 1 without a gap."""

    gateway_id: str
    number: int
    acks: list[AckReceipt]
    connections: list[ConnectionReceipt]


class Beat(_Message, frozen=True):
    """Published on names.STATUS_SUBJECT each BEAT_MS by every gateway process."""

    gateway_id: str
    at_ms: int
    connections: int
    draining: bool


class HealthPing(_Message, frozen=True):
    """Published on health.ping.{gateway_id} each BEAT_MS: whose answers to pings came in, each client's once per
    HEARTBEAT_MS and at most PONG_DUE_MS old, as (client id, round trip in ms)."""

    gateway_id: str
    at_ms: int
    clients: list[tuple[str, int]]


class Replaced(_Message, frozen=True):
    """Gateway to gateway: the device of this user (names.user_tag) is connected elsewhere with a newer `epoch`."""

    tag: bytes
    device: str
    epoch: int


# Revocation.kind
JTI: Final = "jti"
USER: Final = "user"
TENANT: Final = "tenant"

LANES_UNKNOWN: Final = [-1] * LANE_COUNT

_encoder: Final = msgspec.msgpack.Encoder()
_request: Final[msgspec.msgpack.Decoder[InboxRequest]] = msgspec.msgpack.Decoder(InboxRequest)
_reply: Final[msgspec.msgpack.Decoder[InboxReply]] = msgspec.msgpack.Decoder(InboxReply)
_receipts: Final = msgspec.msgpack.Decoder(ReceiptsEntry)
_beat: Final = msgspec.msgpack.Decoder(Beat)
_replaced: Final = msgspec.msgpack.Decoder(Replaced)


def encode(message: InboxRequest | InboxReply | ReceiptsEntry | Beat | Replaced) -> bytes:
    """The MessagePack bytes of a message."""
    return _encoder.encode(message)


def encode_receipts(gateway_id: str, number: int, acks: bytes, connections: list[ConnectionReceipt]) -> bytes:
    """A ReceiptsEntry whose `acks` are packed already: a MessagePack array of AckReceipt."""
    return _encoder.encode((gateway_id, number, msgspec.Raw(acks), connections))


def encode_health_ping(gateway_id: str, at_ms: int, clients: bytes) -> bytes:
    """A HealthPing whose `clients` are packed already: a MessagePack array."""
    return _encoder.encode((gateway_id, at_ms, msgspec.Raw(clients)))


def _decode(decoder: "msgspec.msgpack.Decoder[T]", data: bytes) -> T:
    """Raises msgspec.DecodeError, also for text that is not UTF-8."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("text that is not UTF-8") from error


def decode_request(data: bytes) -> InboxRequest:
    """Raises msgspec.DecodeError."""
    return _decode(_request, data)


def decode_reply(data: bytes) -> InboxReply:
    """Raises msgspec.DecodeError."""
    return _decode(_reply, data)


def decode_receipts(data: bytes) -> ReceiptsEntry:
    """Raises msgspec.DecodeError."""
    return _decode(_receipts, data)


def decode_replaced(data: bytes) -> Replaced:
    """Raises msgspec.DecodeError."""
    return _decode(_replaced, data)


def decode_beat(data: bytes) -> Beat:
    """Raises msgspec.DecodeError."""
    return _decode(_beat, data)
