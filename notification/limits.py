"""Every bound of Herald, in one place: name ends in its unit; the relations are asserted below.

REQUIREMENT marks what Herald was asked for and so does not choose; otherwise the comment says why.
"""

from typing import Final

# --- events -----------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 4_096  # REQUIREMENT: 4 KB of payload; as compact UTF-8 JSON
EVENT_BYTES_MAX: Final = 16_384  # a record above this is refused unparsed; payload + envelope + escapes
EVENT_ID_PAST_MS_MAX: Final = 24 * 3_600_000  # id within (-24 h, +5 min) of the record's time
EVENT_ID_FUTURE_MS_MAX: Final = 5 * 60_000
TTL_S_MIN: Final = 1
TTL_S_MAX: Final = 90 * 86_400
TTL_S_DEFAULT: Final = 7 * 86_400  # a week: longer than any weekend, shorter than the history's 90 days
TITLE_CHARS_MAX: Final = 256
ACTIONS_COUNT_MAX: Final = 4  # as many buttons as a phone shows
ACTION_CHARS_MAX: Final = 64  # id and label of an action: what fits on a button
COLLAPSE_KEY_CHARS_MAX: Final = 64

# --- identity ---------------------------------------------------------------
ID_CHARS_MAX: Final = 64  # tenant, device, segment: [A-Za-z0-9_-]{1,64}
USER_CHARS_MAX: Final = 128  # printable ASCII without space
TENANT_TITLE_CHARS_MAX: Final = 128  # what people call a tenant
DEVICES_PER_USER_MAX: Final = 16
SEGMENT_EXPANDED_COUNT_MAX: Final = 1_000  # members that a notification to a segment becomes direct events for
SEGMENT_MEMBERS_COUNT_MAX: Final = 1_000_000  # of one segment: 150 MB of PostgreSQL
SEGMENTS_COUNT_MAX: Final = 1_000  # of one tenant
SEGMENT_CHUNK_COUNT: Final = 5_000  # members in one statement: 0.1 s
REVOCATIONS_COUNT_MAX: Final = 10_000  # of one tenant, by jti and user: 3 MB in a gateway process
REVOCATIONS_REPLY_COUNT_MAX: Final = 500  # of one edge reply: 500 x (JTI_BYTES_MAX + id + times) < 1 MB of NATS
REVOCATION_S_DEFAULT: Final = 366 * 86_400  # how long one counts: a connection lasts no longer on one token
JTI_BYTES_MAX: Final = 512  # of a jti that is revoked, as UTF-8

# --- delivery ---------------------------------------------------------------
ACK_DUE_MS: Final = 5_000  # every row is stored with due_at = now + 5 s
DUE_EARLY_MS_MAX: Final = 1_000  # a first send leaves its row's due_at, if that is at most so much too early
RETRY_DELAYS_MS: Final = (
    2_000,
    4_000,
    8_000,
)  # REQUIREMENT: at most three, exponential; each x U(0.5, 1.5)
RETRY_JITTER_MIN: Final = 0.5
RETRY_JITTER_MAX: Final = 1.5
EXPIRY_GRACE_MS: Final = 2_000  # nothing is written after expiry + 2 s
LANE_WEIGHTS: Final = (70, 20, 10)  # high, medium, low at every queue after the store
LANE_FLOOR_PERCENT: Final = 5
OWED_ITEMS_MAX: Final = 1_000  # a resume owing more is answered recovered:false and an inbox snapshot
FILL_ITEMS_MAX: Final = 200  # items in one answer of role inbox: 200 x (4 KB + envelope) < 1 MB of NATS
FILL_BYTES_MAX: Final = 768 * 1_024
FILLS_COUNT_MAX: Final = 128  # questions of one request: one transaction of role inbox
FILLS_ITEMS_MAX: Final = 512  # rows of one such transaction: 512 x 1.5 KB is what FILL_BYTES_MAX holds
ENTITLED_USERS_COUNT_MAX: Final = 4_096  # of one question who may have an audience's entry: 530 KB of NATS
AUDIENCE_HEADS_COUNT: Final = 60  # an audience lane's last seq is told so often after it moved, each second once
AUDIENCE_HEADS_MS: Final = 1_000
PAGE_ITEMS_MAX: Final = 100
PAGE_ITEMS_DEFAULT: Final = 50
PARKED_SWEEP_MS: Final = 10_000  # PARKED items of ONLINE users are re-dispatched this often

# --- intake and dispatch ----------------------------------------------------
INTAKE_BATCH_RECORDS_MAX: Final = 100  # one storing transaction, which HIGH waits for: 12 ms; 20 ms with 200
INTAKE_POLL_MS: Final = 500  # the longest wait for records before the loop looks around
LOG_CHECK_MS: Final = 2_000  # ends of the partitions are compared with our positions this often
CRASHES_MAX: Final = 3  # a record that breaks the storing this often is a dead letter
DEAD_LETTER_DEADLINE_MS: Final = 5_000  # of one dead letter's ack; then the batch is given up and read again
KAFKA_SESSION_MS: Final = 6_000  # a dead worker's partitions move on after this; the least Kafka allows by default
KAFKA_REBALANCE_DEADLINE_MS: Final = 10_000
KAFKA_REQUEST_DEADLINE_MS: Final = 5_000
KAFKA_FETCH_WAIT_MS: Final = 500  # a real broker answers a waiting fetch the moment a record comes
KAFKA_FETCH_WAIT_EMBEDDED_MS: Final = 20  # Tansu answers late in proportion to it: 500 costs 200 ms per record
KAFKA_COMMIT_DEADLINE_MS: Final = 1_000  # intake waits no longer for what only lag tools need
DISPATCH_QUEUE_ITEMS_MAX: Final = 20_000  # beyond it rows wait in PostgreSQL for the sweeper
DISPATCH_BATCH_ITEMS_MAX: Final = 256
DISPATCH_BATCHES_IN_FLIGHT_MAX: Final = 3  # batches being sent or recorded: what is ahead of a HIGH
CLOCK_READ_MS: Final = 10_000  # the database's clock, which judges expiry, is read this often
SWEEP_BATCH_ITEMS_MAX: Final = 500
SWEEP_INTERVAL_MS: Final = 250
SWEEP_CLAIM_MS: Final = 10_000  # a claimed row is due again after this: its worker died or its queue was full
RETRY_BUDGET_PERCENT: Final = 10  # retries of a tenant per its sends, over the window
RETRY_BUDGET_WINDOW_MS: Final = 60_000
RETRY_BUDGET_FLOOR_ITEMS: Final = 100  # retries in a window that need no sends: small tenants can retry
BUS_REQUEST_TIMEOUT_MS: Final = 2_000

# --- state changes to upstream services --------------------------------------
STATUS_BATCH_RECORDS_MAX: Final = 1_000  # read, published and noted at once: 200 KB
STATUS_POLL_MS: Final = 200  # new rows of the history are looked for this often
STATUS_PUBLISH_DEADLINE_MS: Final = 5_000  # of one batch; then it is published again
STATUS_TAKEOVER_MS: Final = 2_000  # a process that does not read tries to this often
STATUS_SESSION_IDLE_MS: Final = 30_000  # the server ends the session of a frozen reader: another one takes over

# --- the bus ----------------------------------------------------------------
BUS_BATCH_BYTES_MAX: Final = 512 * 1_024  # under NATS' 1 MB max_payload
BUS_READ_BYTES_MAX: Final = BUS_BATCH_BYTES_MAX  # of one read; twice that of one turn of the loop, 6 ms of frames
BUS_MESSAGE_BYTES_MAX: Final = 1_024 * 1_024  # NATS max_payload default
LIVE_COPIES_COUNT_MAX: Final = 1_024  # of receipts entries that wait for the bus, per gateway process
BUS_PENDING_MESSAGES_MAX: Final = 8_192  # per subscription; past it nats-py drops and error_cb counts
BUS_PENDING_BYTES_MAX: Final = 64 * 1_024 * 1_024
INBOX_DEADLINE_MS: Final = 2_000
INBOX_IN_FLIGHT_MAX: Final = 64  # per inbox process; above it the answer is "busy"
INBOX_COMMANDS_IN_FLIGHT_MAX: Final = 48  # of them what clients ask for, so that fills and the edge have places
PREFERENCES_TOPICS_COUNT_MAX: Final = 100  # that one user has set
RECALL_USERS_COUNT_MAX: Final = 200  # of one request: 2 ms each of INBOX_DEADLINE_MS, and one batch to a gateway
EDGE_POLL_MS: Final = 3_500  # edge snapshot version compared this often, where no hint of a change came
EDGE_PAGE_BYTES_MAX: Final = 300 * 1_024  # of the tenants in one edge reply; what one tenant may need at most
EDGE_PAGE_TENANTS_COUNT_MAX: Final = 500  # read for one edge reply
EDGE_CHANGES_COUNT_MAX: Final = 3  # while the tenants are paged: so often they are read from the first one again
EDGE_JITTER_MAX: Final = 0.1  # of it, so that processes do not ask all at once
EDGE_HINT_SPREAD_MS: Final = 300  # after a hint each process asks within this
EDGE_HINT_CHECK_MS: Final = 10_000  # the connection that listens for changes is tried this often
REVOKED_MS_MAX: Final = 5_000  # a revocation is obeyed by every gateway process within this

# --- keys of issuers --------------------------------------------------------
JWKS_REFRESH_S: Final = 300  # an issuer's JWKS is fetched this often; a key it took back is refused by then
JWKS_COOLDOWN_S: Final = 30  # and never more often than this, whoever asks
JWKS_POLL_MS: Final = 2_000  # issuers that are due are looked for this often
JWKS_DEADLINE_MS: Final = 5_000  # of one fetch
JWKS_FETCHES_COUNT_MAX: Final = 8  # at once, per inbox process
JWKS_BYTES_MAX: Final = 131_072  # of one JWKS: 64 keys with their certificates
JWKS_KEYS_COUNT_MAX: Final = 64  # of one issuer
JWKS_MISSING_COUNT_MAX: Final = 64  # issuers in one edge request
JWKS_URL_CHARS_MAX: Final = 2_048
KID_CHARS_MAX: Final = 256

# --- AuthService ------------------------------------------------------------
AUTH_SERVICE_REQUESTS_COUNT_MAX: Final = 64  # under way, per gateway process
AUTH_SERVICE_QUESTIONS_COUNT_MAX: Final = 1_000  # of a process, those that wait for a request's place included
AUTH_SERVICE_CLIENTS_PER_ADDRESS_MAX: Final = 16  # that wait for an answer; others of the address hear 429, 4429
AUTH_SERVICE_WAIT_MS_MAX: Final = 1_000  # for such a place
AUTH_SERVICE_DEADLINE_MS: Final = 2_000  # of one request
AUTH_SERVICE_ANSWER_BYTES_MAX: Final = 65_536  # of one answer; the claims that count have under 1 KB
AUTH_SERVICE_FAILURES_COUNT_MAX: Final = 5  # without an answer in a row: the breaker opens
AUTH_SERVICE_OPEN_MS: Final = 2_000  # nobody is asked for this long, then one request tries
AUTH_SERVICE_ACTIVE_MS: Final = 30_000  # "active" is believed this long
AUTH_SERVICE_INACTIVE_MS: Final = 5_000  # and "inactive"
AUTH_SERVICE_LOG_MS: Final = 10_000  # what is wrong with its answers is logged this often
AUTH_SERVICE_URL_CHARS_MAX: Final = 2_048
AUTH_SERVICE_CLIENT_CHARS_MAX: Final = 256

# --- gateway ----------------------------------------------------------------
UNACKED_PER_CONNECTION_MAX: Final = 256  # then its lanes wait in the log, not in memory
FRAME_BYTES_MAX: Final = 16_384  # client message, after reassembly -> 1009
FRAGMENTS_MAX: Final = 64
MESSAGES_TEXT_ONLY: Final = True  # binary -> 1003; the conformance server alone, which must echo it, says False
MESSAGE_OPEN_MS_MAX: Final = 10_000
WRITE_BUFFER_BYTES_MAX: Final = 65_536  # unsent bytes of one connection; above it lanes wait, pings end it
UNSENT_MS_MAX: Final = 1_000  # what waits for a full socket longer than this goes back to the log
EXPIRED_MS_MAX: Final = 2_000  # REQUIREMENT: nothing is written later than this after its expiry
HEADER_BYTES_MAX: Final = 16_384
PROXY_HEADER_BYTES_MAX: Final = 4_096  # version 2 with TLVs; a load balancer's are some hundred bytes
FORWARDED_ENTRIES_MAX: Final = 32  # looked at in X-Forwarded-For, from its end
CONNECTIONS_PER_ADDRESS_DEFAULT: Final = 2_000  # default of the setting, per process: an office behind one address
CONNECTIONS_CAP_MAX: Final = 1_000_000  # of such a setting: more than a process has descriptors
AUTH_DEADLINE_MS: Final = 5_000
HEARTBEAT_MS: Final = 30_000  # REQUIREMENT: a heartbeat each 30 s
PONG_DUE_MS: Final = 10_000
CLOSE_DEADLINE_MS: Final = 2_000  # after our close frame, before the socket is aborted
IGNORED_FRAMES_MAX: Final = 4_096  # behind our close, where the carrier is picows; then nothing more is read
WHEEL_TICK_MS: Final = 100
WHEEL_SLOTS: Final = 512
CLIENT_FRAMES_PER_S_MAX: Final = 20  # beside acks of written frames -> 4429
CLIENT_FRAMES_BURST_MAX: Final = 40  # two seconds' worth at once: an app that opens marks and pages
CLIENT_PINGS_PER_S_MAX: Final = 2
CLIENT_PINGS_BURST_MAX: Final = 10  # pings at once, and pongs of ours unsent (RFC 6455 test suites send 10)
BAD_FRAMES_MAX: Final = 3  # the third ends in 4400
LISTEN_BACKLOG: Final = 16_384  # uvloop's default of 100 drops connects in a storm
READ_BUFFER_BYTES: Final = 2_048  # of one connection, where the carrier is picows
ENGINE_READ_BYTES: Final = 65_536  # one read of the engine, into the one buffer of the process
ENGINE_EVENTS_COUNT_MAX: Final = 256  # of one turn, then NATS, Redis and timers have theirs: 256 x 10 µs < 3 ms
ENGINE_ACCEPTS_COUNT_MAX: Final = 64  # of one turn: a connect costs several events' time
UPGRADE_HOLD_MS: Final = 50  # a 101 waits this long for the welcome, to leave with it in one send
ENGINE_ACCEPT_PAUSE_MS: Final = 100  # out of descriptors: the backlog waits this long
TOKEN_BYTES_MAX: Final = 8_192
TOKEN_LEEWAY_S: Final = 30
VERIFIED_TOKENS_COUNT_MAX: Final = 2_048  # remembered per process: about 700 B each of HS256, 1.5 MB in all
VERIFIED_TOKENS_CHARS_MAX: Final = 2_097_152  # of their texts: 1,024 each, as RS256 with some claims has
TOKEN_HEADERS_COUNT_MAX: Final = 256  # parsed JOSE headers per process: one per key that signs
TOKEN_HEADERS_CHARS_MAX: Final = 65_536
PIPELINE_COMMANDS_MAX: Final = 50_000  # queued while Redis is away; receipts stay, presence is rewritten later
PIPELINE_BYTES_MAX: Final = 128 * 1_024 * 1_024  # and of them together: about 900,000 acks
RECEIPTS_PER_ENTRY_MAX: Final = 1_000
RECEIPTS_TICK_MS: Final = 5
RECEIPTS_READ_ENTRIES_MAX: Final = 200  # stream entries of one receipts transaction
RECEIPTS_CLAIM_IDLE_MS: Final = 10_000  # pending entries of a consumer silent this long are taken over
RECEIPTS_STREAM_ENTRIES_MAX: Final = 1_000_000
DRAIN_WINDOW_MS: Final = 5_000
NEW_LOG_WINDOW_MS: Final = 30_000  # in which all clients come again after PostgreSQL went back in time
DRAIN_LISTEN_MS: Final = 300  # a draining listener answers 503 this long before it closes
HEADERS_COUNT_MAX: Final = 100  # request header lines -> 431
DOORS_HELD_MAX: Final = 1_000  # upgrades waiting for a fresh edge snapshot, per process
EVICTION_LOOKS_COUNT_MAX: Final = 1_000  # live connections held to a changed snapshot in one turn of the loop
EVICTION_CLOSE_COUNT: Final = 50  # what closing one counts as
EDGE_REFRESH_MS_MIN: Final = 1_000  # an unknown issuer asks for a newer snapshot at most this often
FILLS_IN_FLIGHT_MAX: Final = 8  # requests of one gateway process to role inbox for owed items
FILLS_TICK_MS: Final = 2  # connections that ask within this share a request: short beside a connect's 100 ms
FILL_RETRY_MS: Final = 1_000  # first wait after a fill failed; doubles, with jitter
FILL_RETRY_MS_MAX: Final = 8_000
AUDIENCE_IDLE_MS: Final = 30_000  # a process listens for a tenant this long after its last connection left
AUDIENCE_HELD_ITEMS_MAX: Final = 256  # of a tenant's lane, while a question is open; then they are refilled
AUDIENCE_HELD_BYTES_MAX: Final = 32 * 1_024 * 1_024  # of all lanes of a process
AUDIENCE_FANOUT_CONNECTIONS_MAX: Final = 256  # written to in one turn of the loop: 256 x 5 µs
AUDIENCE_FANOUT_ITEMS_MAX: Final = 16  # that share a write
AUDIENCE_QUESTIONS_IN_FLIGHT_MAX: Final = 4  # of a process to role inbox, for each priority
AUDIENCE_TRIES_COUNT_MAX: Final = 6  # of such a question, FILL_RETRY_MS and more apart: 20 s
AUDIENCE_OVERTAKEN_MS: Final = 250  # an item may come this long after its seq was told
HELD_BYTES_MAX: Final = 32_768  # client frames that came before the welcome, per connection
COMMANDS_IN_FLIGHT_MAX: Final = 64  # state and page requests of one process; above it the answer is busy
COMMANDS_PER_CONNECTION_MAX: Final = 2  # of them: the next may come before the last one's reply; the same answer
REDIS_REPLY_MS_MAX: Final = 2_000  # a pipeline without an answer for this long reconnects
REDIS_REPLY_BYTES_MAX: Final = 1_024 * 1_024  # of one reply; ours have under 1 KB, the slots of a large cluster 200
REDIS_REPLY_DEPTH_MAX: Final = 8  # arrays within arrays; CLUSTER SLOTS has 4
REDIS_NODES_COUNT_MAX: Final = 1_000  # masters of a cluster; what Redis itself advises at most
REDIS_WRITE_BYTES_MAX: Final = 1_024 * 1_024  # handed to the transport at once: a long queue leaves in pieces
REDIS_RETRY_MS: Final = 100  # first wait before reconnecting; doubles, x U(0.5, 1.5)
REDIS_RETRY_MS_MAX: Final = 2_000
PRESENCE_WRITE_MS_MAX: Final = 500  # how long a connect waits for its presence entry before it reads the log
PRESENCE_RECOUNTS_COUNT_MAX: Final = 16  # users looked through at once for entries of crashed processes
HEALTH_PING_CLIENTS_MAX: Final = 1_000  # clients in one health.ping message
DESCRIPTORS_RESERVED: Final = 128  # of RLIMIT_NOFILE, kept for everything but client sockets
RESTART_MS: Final = 1_000  # a child that lived shorter than this is restarted with a growing pause
RESTART_PAUSE_MS_MAX: Final = 5_000
BALANCE_REPORT_MS: Final = 250  # a process tells its number of connections; new ones go where there are few
BALANCE_RATIO_MAX: Final = 1.15  # fullest process to emptiest; above it some clients are sent away
BALANCE_SLACK_COUNT: Final = 32  # a difference that is only chance
BALANCE_SHED_COUNT_MAX: Final = 100  # clients that a process sends away within one drain window: 20 a second

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
PARTITION_DAYS_LATE_MAX: Final = 90  # an id older than the history is refused, not given a partition
PARTITION_INTERVAL_S: Final = 3_600
KEY_CACHE_ENTRIES_MAX: Final = 50_000
DATABASE_POOL_CONNECTIONS_MAX: Final = 8  # per role and process; PostgreSQL's default is 100 in all
DATABASE_CONNECT_DEADLINE_S: Final = 5
DATABASE_COMMAND_DEADLINE_S: Final = 10  # an answer later than this counts as a server that is away
# Of one turn of a worker's loop, beyond all that may take long in it: asyncpg (0.32) can lose the deadline of a
# command behind an answer that makes no sense to it.
DATABASE_TURN_DEADLINE_S: Final = 60
DATABASE_IDLE_TRANSACTION_MS: Final = 15_000  # the server ends a frozen worker's transaction: its locks go
OUTAGE_DELAY_MS_MIN: Final = 100  # between tries while a server is away, doubling
OUTAGE_DELAY_MS_MAX: Final = 2_000
STARTUP_DEADLINE_S: Final = 60  # a server that stays down this long at start ends the process, non-zero
KAFKA_RETENTION_MS: Final = 72 * 3_600_000  # longer than a weekend without anybody looking

assert EVENT_BYTES_MAX > PAYLOAD_BYTES_MAX
assert SEGMENT_EXPANDED_COUNT_MAX <= SEGMENT_CHUNK_COUNT <= SEGMENT_MEMBERS_COUNT_MAX
assert JWKS_DEADLINE_MS < JWKS_COOLDOWN_S * 1_000 < JWKS_REFRESH_S * 1_000
assert EDGE_POLL_MS * (1 + EDGE_JITTER_MAX) + EDGE_REFRESH_MS_MIN < REVOKED_MS_MAX
assert EDGE_HINT_SPREAD_MS + EDGE_REFRESH_MS_MIN + BUS_REQUEST_TIMEOUT_MS < REVOKED_MS_MAX
assert REVOCATIONS_REPLY_COUNT_MAX * (JTI_BYTES_MAX + 2 * ID_CHARS_MAX) < BUS_MESSAGE_BYTES_MAX / 2
assert EDGE_PAGE_BYTES_MAX < BUS_MESSAGE_BYTES_MAX / 3  # beside the revocations and the issuers that were missing
assert FILL_BYTES_MAX + PAYLOAD_BYTES_MAX * 4 < BUS_MESSAGE_BYTES_MAX
assert AUDIENCE_FANOUT_CONNECTIONS_MAX % 8 == ENTITLED_USERS_COUNT_MAX % 8 == 0  # a bit each, in whole bytes
assert AUDIENCE_OVERTAKEN_MS < AUDIENCE_HEADS_MS
assert AUDIENCE_QUESTIONS_IN_FLIGHT_MAX * 3 + FILLS_IN_FLIGHT_MAX <= INBOX_IN_FLIGHT_MAX
assert ENTITLED_USERS_COUNT_MAX * (USER_CHARS_MAX + 3) + 1_024 < BUS_MESSAGE_BYTES_MAX
assert BUS_BATCH_BYTES_MAX < BUS_MESSAGE_BYTES_MAX
assert LEASE_RENEW_MS * 2 < LEASE_MS <= GATEWAY_DEAD_MS
assert PONG_DUE_MS < HEARTBEAT_MS
assert UNSENT_MS_MAX < EXPIRED_MS_MAX
assert CLIENT_FRAMES_PER_S_MAX <= CLIENT_FRAMES_BURST_MAX
assert CLIENT_PINGS_PER_S_MAX <= CLIENT_PINGS_BURST_MAX
assert WHEEL_TICK_MS * WHEEL_SLOTS > HEARTBEAT_MS + PONG_DUE_MS
assert sum(LANE_WEIGHTS) == 100
assert min(LANE_WEIGHTS) >= LANE_FLOOR_PERCENT
assert FILL_ITEMS_MAX <= UNACKED_PER_CONNECTION_MAX
assert FILL_ITEMS_MAX <= FILLS_ITEMS_MAX
assert BUS_REQUEST_TIMEOUT_MS < ACK_DUE_MS - DUE_EARLY_MS_MAX
assert FRAME_BYTES_MAX <= HELD_BYTES_MAX
assert TOKEN_BYTES_MAX <= FRAME_BYTES_MAX
assert TOKEN_BYTES_MAX * 2 <= VERIFIED_TOKENS_CHARS_MAX
assert AUTH_SERVICE_WAIT_MS_MAX + AUTH_SERVICE_DEADLINE_MS < AUTH_DEADLINE_MS
assert AUTH_SERVICE_REQUESTS_COUNT_MAX <= DESCRIPTORS_RESERVED / 2
assert AUTH_SERVICE_REQUESTS_COUNT_MAX <= AUTH_SERVICE_QUESTIONS_COUNT_MAX <= DOORS_HELD_MAX
assert FILLS_IN_FLIGHT_MAX <= INBOX_IN_FLIGHT_MAX
assert INBOX_COMMANDS_IN_FLIGHT_MAX < INBOX_IN_FLIGHT_MAX
assert COMMANDS_PER_CONNECTION_MAX * 8 <= COMMANDS_IN_FLIGHT_MAX
assert DRAIN_LISTEN_MS < DRAIN_WINDOW_MS
assert PROXY_HEADER_BYTES_MAX <= HEADER_BYTES_MAX
assert REDIS_REPLY_DEPTH_MAX <= 16  # WALK_LEVELS of gateway/_fast/resp.pxd
assert REDIS_WRITE_BYTES_MAX < PIPELINE_BYTES_MAX
assert SWEEP_CLAIM_MS > ACK_DUE_MS > 2 * BUS_REQUEST_TIMEOUT_MS
assert INTAKE_BATCH_RECORDS_MAX <= DISPATCH_QUEUE_ITEMS_MAX
assert STATUS_PUBLISH_DEADLINE_MS + KAFKA_REQUEST_DEADLINE_MS < STATUS_SESSION_IDLE_MS
