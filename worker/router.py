"""From a batch of jobs to bus messages, and from the gateways' replies to rows.

One round: look up presence, group by gateway and priority, send packed batches (gateways concurrently, one
gateway's priority in order), write down what came back. What a reply means for a notification, `decide` says.

Order: `plan` calls happen one after the other, and a (gateway, priority) has a fair lock, so that first sends to
a user leave in the order they were taken. A gateway that did not answer in time is left alone for
GATEWAY_DEAD_MS: its items wait for their due_at, everyone else's go on.
"""

import asyncio
import dataclasses
import enum
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from weakref import WeakValueDictionary

import structlog

from notification import batch, telemetry
from notification.bus import Bus
from notification.codes import ReceiptCode, Status, StatusCode
from notification.errors import BusError, BusTimeout, NoResponders, Unavailable
from notification.limits import (
    ACK_DUE_MS,
    BUS_BATCH_BYTES_MAX,
    BUS_REQUEST_TIMEOUT_MS,
    GATEWAY_DEAD_MS,
    PARKED_SWEEP_MS,
)
from notification.names import PRIORITIES, gateway_subject, user_tag
from worker.attempts import RetryBudget, due_after_send_ms
from worker.clock import Clock
from worker.presence import Beats, Located, PresenceReader
from worker.scheduler import Job
from worker.store import StoredNotification, encode_body
from worker.transitions import Journal, Postponement, Transition

_log = structlog.get_logger("router")


class Answer(enum.Enum):
    """What one gateway said of one item, or why it said nothing."""

    WRITTEN = enum.auto()
    NO_CONNECTION = enum.auto()
    FULL = enum.auto()
    STALE = enum.auto()
    EXPIRED = enum.auto()
    GONE = enum.auto()  # nobody listens on the gateway's subject
    UNSURE = enum.auto()  # no answer in time: it may have been written
    AWAY = enum.auto()  # not sent: the bus is away, or the gateway just failed to answer


_REACHED: Final = frozenset({Answer.WRITTEN, Answer.FULL})


@dataclasses.dataclass(slots=True)
class Sending:
    """A job on its way: whom to ask, what they answered."""

    job: Job
    tag: str
    targets: tuple[str, ...]
    unknown: bool
    item: batch.Item
    answers: dict[str, Answer] = dataclasses.field(default_factory=dict)


class Router:
    """See the module. `requeue` takes jobs whose user came online while they were being parked."""

    def __init__(
        self,
        bus: Bus,
        presence: PresenceReader,
        beats: Beats,
        journal: Journal,
        clock: Clock,
        budget: RetryBudget,
        requeue: Callable[[Job], object],
    ) -> None:
        self._bus = bus
        self._presence = presence
        self._beats = beats
        self._journal = journal
        self._clock = clock
        self._budget = budget
        self._requeue = requeue
        self._locks: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._silent_until_s: dict[str, float] = {}

    async def route(self, jobs: Sequence[Job]) -> None:
        """plan, then send."""
        await self.send(await self.plan(jobs))

    async def plan(self, jobs: Sequence[Job]) -> list[Sending]:
        """Look up where each job goes."""
        tags = [user_tag(job.notification.tenant, job.notification.user) for job in jobs]
        located = await self._presence.locate(tags)
        return [_sending(job, tag, located) for job, tag in zip(jobs, tags, strict=True)]

    async def send(self, sendings: Sequence[Sending]) -> None:
        """Send, ask once more where a gateway was stale, write down the outcome. Raises what the journal raises."""
        outcomes: list[Transition | Postponement] = []
        sent: list[Sending] = []
        now_ms = self._clock.now_ms()
        for sending in sendings:
            refused = self._refuse(sending, now_ms)
            if refused is None:
                sent.append(sending)
            else:
                outcomes.append(refused)
        await self._deliver(sent)
        await self._deliver(await self._stale(sent))
        parked = []
        for sending in sent:
            outcome = self.decide(sending)
            outcomes.append(outcome)
            if isinstance(outcome, Transition) and outcome.status is Status.PARKED:
                parked.append(sending)
        await self._journal.record(outcomes)
        await self._look_again(parked)

    def decide(self, sending: Sending) -> Transition | Postponement:
        """What the gateways' answers mean for the row."""
        answers = set(sending.answers.values())
        notification = sending.job.notification
        if answers & _REACHED or Answer.UNSURE in answers:
            return self._dispatched(sending)
        if Answer.EXPIRED in answers:
            return _moved(notification, Status.EXPIRED, StatusCode.EXPIRED_TTL)
        if Answer.AWAY in answers or (sending.unknown and not answers and not self._beats.settled):
            return Postponement(notification, ACK_DUE_MS)
        return _parked(sending, gone=Answer.GONE in answers)

    def _dispatched(self, sending: Sending) -> Transition:
        notification = sending.job.notification
        attempt = notification.attempt + 1
        code = StatusCode.SENT if attempt == 1 else StatusCode.SENT_RETRY
        if sending.unknown:
            code = StatusCode.SENT_UNKNOWN_PRESENCE
        if attempt > 1:
            telemetry.RETRIES.inc()
        due_ms = due_after_send_ms(attempt)
        return Transition(notification, Status.DISPATCHED, code, attempt, due_ms)

    def _refuse(self, sending: Sending, now_ms: int) -> Transition | Postponement | None:
        """Reasons not to send at all: expired, not yet due, over the tenant's retry budget."""
        notification = sending.job.notification
        if notification.expiry_ms <= now_ms:
            return _moved(notification, Status.EXPIRED, StatusCode.EXPIRED_TTL)
        if notification.not_before_ms is not None and notification.not_before_ms > now_ms:
            return Postponement(notification, notification.not_before_ms - now_ms)
        if not sending.targets:
            return None
        if not self._budget.allow(notification.tenant, retry=notification.attempt > 0):
            return _moved(notification, Status.PARKED, StatusCode.PARKED_RETRIES_SPENT)
        return None

    async def _deliver(self, sendings: Sequence[Sending]) -> None:
        groups: dict[tuple[str, int], list[Sending]] = {}
        for sending in sendings:
            for gateway in sending.targets:
                groups.setdefault((gateway, sending.job.priority), []).append(sending)
        async with asyncio.TaskGroup() as tasks:
            for (gateway, priority), group in groups.items():
                tasks.create_task(self._deliver_group(gateway, priority, group))

    async def _deliver_group(self, gateway: str, priority: int, group: list[Sending]) -> None:
        lock = self._locks.get((gateway, priority))
        if lock is None:
            lock = self._locks[gateway, priority] = asyncio.Lock()
        async with lock:
            for part in chunks(group):
                answers = await self._ask(gateway, priority, part)
                for sending, answer in zip(part, answers, strict=True):
                    sending.answers[gateway] = answer

    async def _ask(self, gateway: str, priority: int, part: list[Sending]) -> list[Answer]:
        if self._silent_until_s.get(gateway, 0.0) > time.monotonic():
            return [Answer.AWAY] * len(part)
        message = batch.pack([sending.item for sending in part], self._clock.now_ms())
        try:
            reply = await self._bus.request(
                gateway_subject(gateway, PRIORITIES[priority]), message, BUS_REQUEST_TIMEOUT_MS / 1000
            )
            codes = batch.unpack_reply(reply, len(part))
        except NoResponders:
            self._beats.gone(gateway)
            return [Answer.GONE] * len(part)
        except Unavailable:
            return [Answer.AWAY] * len(part)
        except BusError as error:
            self._silence(gateway, error)
            return [Answer.UNSURE] * len(part)
        self._silent_until_s.pop(gateway, None)
        return [_ANSWERS[code] for code in codes]

    def _silence(self, gateway: str, error: BusError) -> None:
        _log.warning("gateway_did_not_answer", gateway=gateway, error=type(error).__name__)
        if not isinstance(error, BusTimeout):
            telemetry.BUS_BAD.inc()
            return
        now_s = time.monotonic()
        self._silent_until_s = {name: until for name, until in self._silent_until_s.items() if until > now_s}
        self._silent_until_s[gateway] = now_s + GATEWAY_DEAD_MS / 1000

    async def _stale(self, sendings: Sequence[Sending]) -> list[Sending]:
        """Those that reached nobody because a gateway is draining, aimed at gateways not asked yet."""
        again = [
            sending
            for sending in sendings
            if Answer.STALE in sending.answers.values() and not _REACHED & set(sending.answers.values())
        ]
        await self._aim_anew(again)
        return [sending for sending in again if sending.targets]

    async def _aim_anew(self, sendings: Sequence[Sending]) -> None:
        if not sendings:
            return
        located = await self._presence.locate([sending.tag for sending in sendings])
        for sending in sendings:
            targets = located.targets(sending.tag)
            sending.targets = tuple(gateway for gateway in targets if gateway not in sending.answers)
            sending.unknown = located.unknown

    async def _look_again(self, parked: Sequence[Sending]) -> None:
        """Parking commits first and reads presence after: whoever connected in between is found here."""
        first = [sending for sending in parked if not sending.job.parked]
        await self._aim_anew(first)
        for sending in first:
            if sending.targets and not sending.unknown:
                self._requeue(dataclasses.replace(sending.job, parked=True))


_ANSWERS: Final = {code: Answer[code.name] for code in ReceiptCode}


def chunks(group: Iterable[Sending]) -> Iterator[list[Sending]]:
    """Cut a group, in order, into parts whose packed batch stays under BUS_BATCH_BYTES_MAX."""
    part: list[Sending] = []
    size_bytes = batch.OVERHEAD_BYTES
    for sending in group:
        if part and size_bytes + sending.item.size_bytes > BUS_BATCH_BYTES_MAX:
            yield part
            part, size_bytes = [], batch.OVERHEAD_BYTES
        part.append(sending)
        size_bytes += sending.item.size_bytes
    if part:
        yield part


def bus_item(notification: StoredNotification, attempt: int, tag: str) -> batch.Item:
    """The notification as a gateway gets it; the body is encoded here, once."""
    return batch.Item(
        kind=batch.NOTIFICATION,
        lane=notification.lane,
        attempt=attempt,
        seq=notification.seq,
        prev=notification.prev,
        expiry_ms=notification.expiry_ms,
        id=notification.id.bytes,
        tag=tag.encode("ascii"),
        body=encode_body(notification),
    )


def _sending(job: Job, tag: str, located: Located) -> Sending:
    item = bus_item(job.notification, job.notification.attempt + 1, tag)
    return Sending(job, tag, located.targets(tag), located.unknown, item)


def _moved(notification: StoredNotification, status: Status, code: StatusCode) -> Transition:
    """A transition that uses no attempt; whoever is still in flight afterwards waits for expiry."""
    if status is Status.PARKED:
        telemetry.PARKED.labels(code.name).inc()
    return Transition(notification, status, code, notification.attempt, None)


def _parked(sending: Sending, *, gone: bool) -> Transition | Postponement:
    """No device reached. Look again in PARKED_SWEEP_MS; a second look that finds nobody waits for a connect.

    While presence names a gateway that nobody answers for, or is unknown, it is looked at again and again.
    """
    notification = sending.job.notification
    code = StatusCode.PARKED_GATEWAY_GONE if gone else StatusCode.PARKED_OFFLINE
    if sending.job.parked:
        return Postponement(notification, PARKED_SWEEP_MS if gone or sending.unknown else None)
    telemetry.PARKED.labels(code.name).inc()
    return Transition(notification, Status.PARKED, code, notification.attempt, PARKED_SWEEP_MS)
