"""The ledger: every id that Kafka accepted, every id that a device received, and what PostgreSQL says of them."""

import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from notification.codes import LANE_BY_NAME, Status

WRITTEN_AFTER_EXPIRY_MS_MAX: Final = 2_000
ACKED: Final = (Status.DELIVERED, Status.READ)
NEVER_WRITTEN: Final = (Status.EXPIRED, Status.CANCELLED, Status.COLLAPSED)

User = tuple[str, str]


class Sent(NamedTuple):
    """An id that Kafka accepted; `expiry_ms` (Unix) by the producer's clock, a little before the broker's."""

    user: User
    accepted_s: float  # time.monotonic
    expiry_ms: int


class Row(NamedTuple):
    """What PostgreSQL holds of an id."""

    id: str
    user: User
    lane: int
    seq: int
    status: Status
    expiry_ms: int


class Skip(NamedTuple):
    """A device went from `last` of a lane to one behind `upto` without having seen what lies between."""

    device: "DeviceName"
    lane: int
    last: int
    upto: int
    at_ms: float  # Unix


class DeviceName(NamedTuple):
    user: User
    device: str


@dataclasses.dataclass
class Counts:
    """What a case ended in. All of `wrong` must be 0."""

    sent: int = 0
    received: int = 0
    duplicates: int = 0
    expired: int = 0
    lost: int = 0
    foreign: int = 0
    after_expiry: int = 0
    delivered_without_ack: int = 0
    prefix_breaks: int = 0
    unsettled: int = 0
    longest_gap_s: float = 0.0

    @property
    def wrong(self) -> dict[str, int]:
        """The promises that were broken, and how often."""
        names = ("lost", "foreign", "after_expiry", "delivered_without_ack", "prefix_breaks", "unsettled")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class Ledger:
    """Written by the producer and the devices of a case; `judge` closes it."""

    def __init__(self) -> None:
        self.acks_may_be_forgotten = False
        """PostgreSQL loses its last commits: what was acked may come again, and expire before its next ack."""
        self.sent: dict[str, Sent] = {}
        self.unsure: dict[str, User] = {}
        """Ids whose record may or may not be in Kafka: their arrival is right, their absence too."""
        self.received: dict[str, dict[DeviceName, float]] = defaultdict(dict)  # id -> first seen, time.monotonic
        self.acked: set[str] = set()
        self.skips: list[Skip] = []
        self.duplicates = 0
        self.foreign = 0
        self.after_expiry = 0
        self._arrivals: list[float] = []

    def take(self, device: DeviceName, frame: dict[str, Any], *, live: bool) -> None:
        """A device was shown a notification; `live`: as a frame of its own, not in a page."""
        now_s = time.monotonic()
        ident = frame["id"]
        sent = self.sent.get(ident)
        owner = sent.user if sent else self.unsure.get(ident)
        if (owner is not None and owner != device.user) or frame["p"]["title"] != "/".join(device.user):
            self.foreign += 1
            return
        if live and time.time() * 1_000 > frame["expires_at"] + WRITTEN_AFTER_EXPIRY_MS_MAX:
            self.after_expiry += 1
        if device in self.received[ident]:
            self.duplicates += live
            return
        self.received[ident][device] = now_s
        self._arrivals.append(now_s)

    def missing(self, rows: Iterable[Row]) -> set[str]:
        """Accepted ids that no device of their user has seen, and that did not expire."""
        expired = {row.id for row in rows if row.status in NEVER_WRITTEN}
        return self.sent.keys() - self.received.keys() - expired

    def judge(self, rows: Collection[Row], first_s: float, last_s: float) -> Counts:
        """`rows`: all of the tenants. The longest time without any arrival is looked for between the two times."""
        by_place = {(row.user, row.lane, row.seq): row for row in rows}
        now_ms = time.time() * 1_000
        wrongly_expired = {
            row.id for row in rows
            if row.status is Status.EXPIRED and row.id in self.sent and self.sent[row.id].expiry_ms > now_ms
        }  # fmt: skip
        strangers = self.received.keys() - self.sent.keys() - self.unsure.keys()
        return Counts(
            sent=len(self.sent),
            received=len(self.received.keys() & self.sent.keys()),
            duplicates=self.duplicates,
            expired=len([row for row in rows if row.status is Status.EXPIRED and row.id not in self.received]),
            lost=len(self.missing(rows) | (wrongly_expired - self.received.keys())),
            foreign=self.foreign + len(strangers),
            after_expiry=self.after_expiry,
            delivered_without_ack=len([row for row in rows if row.status in ACKED and row.id not in self.acked]),
            prefix_breaks=sum(self._is_break(skip, by_place) for skip in self.skips),
            unsettled=len(self.unsettled(rows)),
            longest_gap_s=self._longest_gap_s(first_s, last_s),
        )

    def unsettled(self, rows: Iterable[Row]) -> set[str]:
        """Received and acked, but not DELIVERED."""
        done = (*ACKED, Status.EXPIRED) if self.acks_may_be_forgotten else ACKED
        return {row.id for row in rows if row.id in self.acked and row.status not in done}

    def _is_break(self, skip: Skip, by_place: dict[tuple[User, int, int], Row]) -> bool:
        """Whether something that was skipped should have been written: it did not come otherwise nor expire."""
        for seq in range(skip.last + 1, skip.upto + 1):
            row = by_place.get((skip.device.user, skip.lane, seq))
            if row is None:
                return True
            over = row.status in NEVER_WRITTEN or row.expiry_ms <= skip.at_ms
            if not over and skip.device not in self.received[row.id]:
                return True
        return False

    def _longest_gap_s(self, first_s: float, last_s: float) -> float:
        times = [first_s, *(at for at in sorted(self._arrivals) if first_s < at < last_s), last_s]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class Place:
    """How far a device has each lane, as its cursor says; what it skips goes to the ledger."""

    def __init__(self, ledger: Ledger, device: DeviceName) -> None:
        self.epoch = 0
        self.at: dict[str, int] = {}
        self._ledger, self._device = ledger, device

    def forget(self) -> None:
        """The server said that it cannot go on from the cursor: the inbox is read anew."""
        self.at = {}

    def move(self, lane: str, seq: int, *, shown: bool) -> None:
        """To `seq`, which was `shown` in a frame of its own or is only told."""
        if lane in self.at:
            upto = seq - 1 if shown else seq
            if upto > self.at[lane]:
                self._ledger.skips.append(
                    Skip(self._device, LANE_BY_NAME[lane], self.at[lane], upto, time.time() * 1_000)
                )
            seq = max(seq, self.at[lane])
        self.at[lane] = seq
