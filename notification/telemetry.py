"""Logs and metrics: every metric is declared in this table; labels stay low-cardinality.

Logs hold no payload and no raw user id: a user appears as `pseudonym(tenant, user)`.
Metrics are prometheus_client's; gateway processes share its multiprocess files, so any of them can
print the sum (PROMETHEUS_MULTIPROC_DIR is set by the supervisor before this module is imported).
"""

import bisect
import hashlib
import hmac
import logging
import sys
from typing import Final

import structlog
from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
_MILLISECONDS: Final = tuple(second * 1_000 for second in _SECONDS)

# --- both -------------------------------------------------------------------
BUS_DROPPED = Counter("herald_bus_dropped_total", "Bus messages dropped here: disconnected or slow consumer")
BUS_BAD = Counter("herald_bus_bad_total", "Bus messages that did not decode")

# --- gateway ----------------------------------------------------------------
CONNECTIONS = Gauge("herald_connections", "Open client connections", multiprocess_mode="livesum")
CONNECTS = Counter("herald_connects_total", "Connections accepted after authentication")
REFUSALS = Counter("herald_refusals_total", "Connections refused at the door", ["code"])
TLS_FAILURES = Counter("herald_tls_failures_total", "TLS handshakes that failed or took too long")
AUTH_SERVICE_QUESTIONS = Counter(
    "herald_auth_service_questions_total", "Questions to the AuthService about a token", ["outcome"]
)
AUTH_SERVICE_OPENED = Counter("herald_auth_service_opened_total", "Times that the AuthService was given a rest")
AUTH_SERVICE_SECONDS = Histogram(
    "herald_auth_service_seconds", "A question to the AuthService, to its answer", buckets=_SECONDS
)
CLOSES = Counter("herald_closes_total", "Connections closed, by close code", ["code"])
FRAMES_WRITTEN = Counter("herald_notifications_written_total", "Notification frames written to clients")
ACKS = Counter("herald_acks_total", "Acks of written notifications")
BAD_FRAMES = Counter("herald_bad_frames_total", "Client frames that broke the protocol")
FILLS = Counter("herald_fills_total", "Questions to role inbox for owed notifications", ["outcome"])
FILL_REQUESTS = Counter("herald_fill_requests_total", "Requests to role inbox that carry these questions")
AUDIENCE_ITEMS = Counter("herald_audience_items_total", "Notifications to audiences that came over the bus")
AUDIENCE_FRAMES = Counter("herald_audience_frames_total", "Frames that they became, on connections")
AUDIENCE_PASSED = Counter(
    "herald_audience_passed_total", "Connections that one passed over: not entitled, or too late"
)
AUDIENCE_GAPS = Counter("herald_audience_gaps_total", "Gaps in a tenant's lanes that role inbox filled")
AUDIENCE_QUESTIONS = Counter(
    "herald_audience_questions_total", "Questions to role inbox about audiences", ["outcome"]
)
RECEIPTS_QUEUED = Gauge("herald_receipts_queued", "Receipts waiting for Redis", multiprocess_mode="livesum")
RECEIPTS_LOST = Counter("herald_receipts_lost_total", "Receipts dropped because Redis stayed away too long")
REDIS_REFUSED = Counter("herald_redis_refused_total", "Commands of the pipeline that Redis refused for good")
CONNECT_SECONDS = Histogram("herald_connect_seconds", "Accept to welcome", buckets=_SECONDS)
PING_SECONDS = Histogram("herald_ping_seconds", "Server ping to pong", buckets=_SECONDS)

# --- worker -----------------------------------------------------------------
EVENTS = Counter("herald_events_total", "Kafka records by outcome", ["priority", "outcome"])
DEAD_LETTERS = Counter("herald_dead_letters_total", "Records sent to the dead-letter topic", ["reason"])
DISPATCHED = Counter("herald_dispatched_total", "Dispatch results per notification", ["priority", "outcome"])
RETRIES = Counter("herald_retries_total", "Notifications sent again because no ack came in time")
PARKED = Counter("herald_parked_total", "Notifications parked", ["reason"])
RECEIPTS = Counter("herald_receipts_total", "Receipts stored", ["kind"])
RECEIPTS_MISSING = Counter("herald_receipts_missing_total", "Gaps in a gateway's entry numbers")
FENCED = Counter("herald_fenced_total", "Batches given up because another worker owns the position")
LOG_RESTARTED = Counter("herald_log_restarted_total", "Partitions with another log than our position is of")
INBOX_REQUESTS = Counter("herald_inbox_requests_total", "Requests to role inbox", ["kind", "outcome"])
STATUS_PUBLISHED = Counter("herald_status_published_total", "State changes published on notifications.status")
STATUS_LAG = Gauge("herald_status_lag", "State changes not yet published there, by the process that publishes")
JWKS_FETCHES = Counter("herald_jwks_fetches_total", "Fetches of issuers' keys", ["outcome"])
STORE_SECONDS = Histogram("herald_store_seconds", "One storing transaction", buckets=_SECONDS)
DISPATCH_QUEUE = Gauge("herald_dispatch_queue", "Stored notifications waiting in memory", ["priority"])

_pseudonym_key = b"unset"


class Seconds:
    """A Histogram of a hot path, in plain numbers until settle(): a metric's own observe() costs several
    microseconds where processes share their files."""

    __slots__ = ("_counts", "_metric", "_sum_ms")

    def __init__(self, metric: Histogram) -> None:
        self._metric = metric
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum_ms = 0

    def observe_ms(self, ms: int) -> None:
        self._counts[bisect.bisect_left(_MILLISECONDS, ms)] += 1
        self._sum_ms += ms

    def settle(self) -> None:
        """Add what was observed to the metric."""
        # What Histogram.observe() does for one value; it has nothing for many.
        for place, count in enumerate(self._counts):
            if count:
                self._metric._buckets[place].inc(count)
                self._counts[place] = 0
        if self._sum_ms:
            self._metric._sum.inc(self._sum_ms / 1_000)
            self._sum_ms = 0


def pseudonym(tenant: str, user: str) -> str:
    """A keyed, stable stand-in for a user in logs: 16 hex digits of HMAC-SHA-256."""
    return hmac.digest(_pseudonym_key, f"{tenant}:{user}".encode(), hashlib.sha256).hex()[:16]


def configure(level: str, key: bytes, json: bool) -> None:
    """Set up structlog on stderr: JSON lines for machines, coloured text for a terminal."""
    global _pseudonym_key
    _pseudonym_key = hashlib.sha256(b"herald pseudonym" + key).digest()
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
