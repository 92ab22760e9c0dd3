"""The protocol core of one connection: RFC 6455 duties above the frame header, lanes, window, rate."""

AWAIT_AUTH: int  # 0: no identity yet
RESUMING: int  # 1: authenticated; live items are noted, not written, until begin_live()
LIVE: int  # 2
CLOSING: int  # 3: our close frame is queued or sent
CLOSED: int  # 4

WRITTEN: int  # 0, as codes.ReceiptCode
FULL: int  # 2

LANE_COUNT: int  # codes.LANE_COUNT

# (code, reason) of codes.Closes, which this package does not import.
NORMAL: tuple[int, str]
PROTOCOL_ERROR: tuple[int, str]
UNSUPPORTED_DATA: tuple[int, str]
INVALID_TEXT: tuple[int, str]
TOO_BIG: tuple[int, str]
BAD_FRAMES: tuple[int, str]
TOO_SLOW: tuple[int, str]
TOO_FAST: tuple[int, str]

class Session:
    """Sans-I/O: frames in by feed(), bytes out by take(). No clock (the caller passes monotonic ms), no picows,
    no JSON. Memory is bounded by limits: FRAME_BYTES_MAX of a message in parts, UNACKED_PER_CONNECTION_MAX
    unacked entries, and whatever the caller queued since the last take()."""

    # Read-only, but for connection_epoch (presence may raise it), the token_ fields and blocked.
    tenant: str
    user: str
    device: str
    tag: bytes  # names.user_tag, the registry key
    session_id: str  # 32 hexadecimal digits, made of the 16 bytes kept
    connection_epoch: int
    token_expiry_ms: int  # monotonic; 0 = none
    token_issued_s: int  # Unix; 0 = unknown. The policy's, as token_digest: a revocation is compared with them
    token_digest: int  # 64 bits, signed; 0 = none
    phase: int
    close_code: int  # 0 until a close is queued (ours) or received (echoed)
    close_sent: bool  # our close frame, which is the last, was taken whole
    close_received: bool  # with close_sent the handshake is done: phase CLOSED
    binary: bool  # the last message was; never while limits.MESSAGES_TEXT_ONLY
    blocked: bool  # set by the carrier above its high-water mark: offer() notes, fill() refuses, window_free() is 0

    def __init__(self, now_ms: int) -> None: ...
    def authenticate(
        self, tenant: str, user: str, device: str, session_id: bytes, tag: bytes, connection_epoch: int,
        token_expiry_ms: int,
    ) -> None:  # fmt: skip
        """AWAIT_AUTH -> RESUMING. ValueError: `session_id` has not 16 bytes."""
    def feed(self, opcode: int, fin: bool, rsv: int, payload: bytes, now_ms: int) -> bytes | None:
        """One unmasked frame in. Returns a whole, valid UTF-8 text message, or None.

        Pings are answered, pongs noted, closes echoed (empty -> 1000) inside; a violation queues the close of
        codes.Closes: 1002 (RSV, opcode, fragmented or long control frame, bad close code, stray or missing
        continuation), 1003 binary, 1007, 1009 (size, fragments, open too long), 4410 (pongs not taken), 4429 (rate
        of messages, beside one per notification written, or of pings and unasked pongs)."""
    def send(self, frame: bytes, binary: bool = False, last: bool = False) -> None:
        """Queue a server frame outside lanes and window, before what waits of the lanes; with `last` behind it.
        `binary`: for the conformance server only."""
    def offer(self, lane: int, seq: int, prev: int, ident: bytes, body: bytes, retry: bool = False) -> int:
        """A live item from the bus. WRITTEN: queued, or already had. FULL: its prev is missing, the window is
        full, or the session is resuming: remembered as wanted; a fill brings it.

        `retry`: no ack of it has reached the store. At or below at() it is written again even if it is not unacked
        here (the client's cursor moved, its ack was lost), as far as the window has room."""
    def fill(self, lane: int, seq: int, prev: int, ident: bytes, body: bytes) -> bool:
        """An owed item from the log. False when the window is full (nothing queued); items at or below at(lane)
        are skipped and count as True."""
    def advance(self, lane: int, seq: int) -> None:
        """The lane is complete up to `seq` (entries between expired, collapsed or were recalled)."""
    def begin_live(self) -> None:
        """RESUMING -> LIVE."""
    def end(self) -> None:
        """The socket is gone: CLOSED, nothing is queued or kept any more."""
    def ack(self, ident: bytes) -> tuple[int, int] | None:
        """(lane, seq) if `ident` (16 bytes) is in the window, else None. Frees its place."""
    def ack_upto(self, ident: bytes) -> list[tuple[bytes, int, int]] | None:
        """Everything written up to and with `ident`, in the order of the wire: (id, lane, seq). None: it is acked,
        was never written, or waits in the queue still."""
    def put_back(self) -> None:
        """Take what waits of the lanes out of the queue and the window, but for a frame partly taken: at() is then
        before it, and it is wanted. Carriers do so when a socket takes bytes again after UNSENT_MS_MAX."""
    def at(self) -> list[int]:
        """Per lane, the seq up to which this connection has everything; -1 = nothing known."""
    def set_at(self, lane: int, seq: int) -> None:
        """Start of a lane from a cursor."""
    def wanted(self) -> bool:
        """Some lane was offered beyond at(): a fill is needed."""
    def window_free(self) -> int:
        """Places left of UNACKED_PER_CONNECTION_MAX; 0 while blocked."""
    def unacked(self) -> int: ...
    def ping(self, now_ms: int) -> None:
        """Queue a PING; pong_due_ms() counts from now."""
    def pong_due_ms(self) -> int:
        """Monotonic ms by which a pong must come; 0 = none outstanding."""
    def take_rtt_ms(self) -> int:
        """Round trip in ms of the last ping that was answered, once; -1 = none since it was asked."""
    def bad_frame(self) -> bool:
        """Count a frame the policy rejected; True (and close 4400 queued) when it was one too many."""
    def close(self, code: int, reason: str) -> None:
        """Queue a close frame once; later calls do nothing. Phase CLOSING. ValueError: `code` may not be sent."""
    def pending(self) -> int:
        """Bytes queued."""
    def take(self, bytes_max: int | None = None) -> bytes:
        """The queued frames as they leave, coalesced for one write, or the first `bytes_max` bytes of it; those
        count as written. Control, HIGH, MEDIUM, LOW, last; a frame partly taken is finished first."""
