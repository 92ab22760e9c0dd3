"""Every bound of Herald, in one place: name ends in its unit; the relations are asserted below.

Source of a number: CUSTOMER = the customer's requirements
document (§ given); otherwise the comment says why.
"""

from typing import Final

# --- events -----------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 4_096  # CUSTOMER 3.1.2; as compact UTF-8 JSON
EVENT_BYTES_MAX: Final = 16_384  # a record above this is refused unparsed; payload + envelope + escapes
EVENT_ID_PAST_MS_MAX: Final = 24 * 3_600_000  # id within (-24 h, +5 min) of the record's time
EVENT_ID_FUTURE_MS_MAX: Final = 5 * 60_000
TTL_S_MIN: Final = 1
TTL_S_MAX: Final = 90 * 86_400
TTL_S_DEFAULT: Final = 7 * 86_400  # a week: longer than any weekend, shorter than the history's 90 days
TITLE_CHARS_MAX: Final = 256
ACTIONS_COUNT_MAX: Final = 4  # as many buttons as a phone shows
COLLAPSE_KEY_CHARS_MAX: Final = 64

# --- identity ---------------------------------------------------------------
ID_CHARS_MAX: Final = 64  # tenant, device, segment: [A-Za-z0-9_-]{1,64}
USER_CHARS_MAX: Final = 128  # printable ASCII without space
DEVICES_PER_USER_MAX: Final = 16

# --- delivery ---------------------------------------------------------------
ACK_DUE_MS: Final = 5_000  # every row is stored with due_at = now + 5 s
RETRY_DELAYS_MS: Final = (
    2_000,
    4_000,
    8_000,
)  # CUSTOMER 3.1.4: at most three, exponential; each x U(0.5, 1.5)
RETRY_JITTER_MIN: Final = 0.5
RETRY_JITTER_MAX: Final = 1.5
EXPIRY_GRACE_MS: Final = 2_000  # nothing is written after expiry + 2 s
LANE_WEIGHTS: Final = (70, 20, 10)  # high, medium, low at every queue after the store
LANE_FLOOR_PERCENT: Final = 5
OWED_ITEMS_MAX: Final = 1_000  # a resume owing more is answered recovered:false and an inbox snapshot
FILL_ITEMS_MAX: Final = 200  # items in one answer of role inbox: 200 x (4 KB + envelope) < 1 MB of NATS
FILL_BYTES_MAX: Final = 768 * 1_024
PAGE_ITEMS_MAX: Final = 100
PAGE_ITEMS_DEFAULT: Final = 50
PARKED_SWEEP_MS: Final = 10_000  # PARKED items of ONLINE users are re-dispatched this often

# --- intake and dispatch ----------------------------------------------------
INTAKE_BATCH_RECORDS_MAX: Final = 200  # one storing transaction
DISPATCH_QUEUE_ITEMS_MAX: Final = 20_000  # beyond it rows wait in PostgreSQL for the sweeper
DISPATCH_BATCH_ITEMS_MAX: Final = 256
SWEEP_BATCH_ITEMS_MAX: Final = 500
SWEEP_INTERVAL_MS: Final = 250
BUS_REQUEST_TIMEOUT_MS: Final = 2_000

# --- the bus ----------------------------------------------------------------
BUS_BATCH_BYTES_MAX: Final = 512 * 1_024  # under NATS' 1 MB max_payload
BUS_MESSAGE_BYTES_MAX: Final = 1_024 * 1_024  # NATS max_payload default
BUS_PENDING_MESSAGES_MAX: Final = 8_192  # per subscription; past it nats-py drops and error_cb counts
BUS_PENDING_BYTES_MAX: Final = 64 * 1_024 * 1_024
INBOX_DEADLINE_MS: Final = 2_000
INBOX_IN_FLIGHT_MAX: Final = 64  # per inbox process; above it the answer is "busy"
EDGE_POLL_MS: Final = 5_000  # edge snapshot version compared every 5 s

# --- gateway ----------------------------------------------------------------
UNACKED_PER_CONNECTION_MAX: Final = 256  # then its lanes wait in the log, not in memory
FRAME_BYTES_MAX: Final = 16_384  # client message, after reassembly -> 1009
FRAGMENTS_MAX: Final = 64
MESSAGE_OPEN_MS_MAX: Final = 10_000
WRITE_BUFFER_BYTES_MAX: Final = 65_536  # unsent bytes of one connection; above it lanes wait, pings end it
HEADER_BYTES_MAX: Final = 16_384
AUTH_DEADLINE_MS: Final = 5_000
HEARTBEAT_MS: Final = 30_000  # CUSTOMER 3.1.5
PONG_DUE_MS: Final = 10_000
CLOSE_DEADLINE_MS: Final = 2_000  # after our close frame, before the socket is aborted
WHEEL_TICK_MS: Final = 100
WHEEL_SLOTS: Final = 512
CLIENT_FRAMES_PER_S_MAX: Final = 20  # beside acks of written frames -> 4429
CLIENT_PINGS_PER_S_MAX: Final = 2
BAD_FRAMES_MAX: Final = 3  # the third ends in 4400
LISTEN_BACKLOG: Final = 16_384  # uvloop's default of 100 drops connects in a storm
READ_BUFFER_BYTES: Final = 2_048
TOKEN_BYTES_MAX: Final = 8_192
TOKEN_LEEWAY_S: Final = 30
PIPELINE_COMMANDS_MAX: Final = 50_000  # queued while Redis is away; receipts stay, presence is rewritten later
RECEIPTS_PER_ENTRY_MAX: Final = 1_000
RECEIPTS_TICK_MS: Final = 5
RECEIPTS_STREAM_ENTRIES_MAX: Final = 1_000_000
DRAIN_WINDOW_MS: Final = 5_000

# --- presence ---------------------------------------------------------------
LEASE_MS: Final = 3_000
LEASE_RENEW_MS: Final = 1_000
BEAT_MS: Final = 1_000
GATEWAY_DEAD_MS: Final = 3_000  # lease gone and no beat for this long
RECONNECTING_MS: Final = 15_000
PRESENCE_REBUILD_MS: Final = 5_000  # gateways rewrite their entries within this of the marker's birth

# --- storage ----------------------------------------------------------------
PARTITION_DAYS_BEHIND: Final = 1  # an id may be 24 h old
PARTITION_DAYS_AHEAD: Final = 3
KEY_CACHE_ENTRIES_MAX: Final = 50_000
STARTUP_DEADLINE_S: Final = 60  # a server that stays down this long at start ends the process, non-zero

assert EVENT_BYTES_MAX > PAYLOAD_BYTES_MAX
assert FILL_BYTES_MAX + PAYLOAD_BYTES_MAX * 4 < BUS_MESSAGE_BYTES_MAX
assert BUS_BATCH_BYTES_MAX < BUS_MESSAGE_BYTES_MAX
assert LEASE_RENEW_MS * 2 < LEASE_MS <= GATEWAY_DEAD_MS
assert PONG_DUE_MS < HEARTBEAT_MS
assert WHEEL_TICK_MS * WHEEL_SLOTS > HEARTBEAT_MS + PONG_DUE_MS
assert sum(LANE_WEIGHTS) == 100
assert min(LANE_WEIGHTS) >= LANE_FLOOR_PERCENT
assert FILL_ITEMS_MAX <= UNACKED_PER_CONNECTION_MAX
assert BUS_REQUEST_TIMEOUT_MS < ACK_DUE_MS
assert INTAKE_BATCH_RECORDS_MAX <= DISPATCH_QUEUE_ITEMS_MAX
