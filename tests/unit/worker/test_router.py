"""worker/router.py: from jobs to bus messages, from replies to outcomes; bus and presence are memory twins."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest

from notification import batch
from notification.batch import Item
from notification.codes import ReceiptCode, Status, StatusCode
from notification.limits import (
    ACK_DUE_MS,
    BUS_BATCH_BYTES_MAX,
    GATEWAY_DEAD_MS,
    PARKED_SWEEP_MS,
    RETRY_BUDGET_FLOOR_ITEMS,
)
from notification.names import PRIORITIES, gateway_subject, user_tag
from tests.twins.bus import Hub, MemoryBus
from tests.twins.presence import MemoryPresence
from tests.unit.worker.jobs import EXPIRY_MS, job
from worker import router as router_module
from worker.attempts import RetryBudget
from worker.presence import Beats
from worker.router import Router
from worker.scheduler import Job
from worker.transitions import Postponement, Transition

Outcome = Transition | Postponement


class Journal:
    """Remembers outcomes; `then` runs after each record, as if time passed."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.then: Callable[[], None] = lambda: None

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes
        self.then()

    @property
    def only(self) -> Outcome:
        assert len(self.outcomes) == 1
        return self.outcomes[0]

    def status(self) -> tuple[Status, StatusCode]:
        outcome = self.only
        assert isinstance(outcome, Transition)
        return outcome.status, outcome.code


class Gateway:
    """Takes batches of every priority and answers with `code` for each item (None: no answer)."""

    def __init__(self, code: ReceiptCode | None = ReceiptCode.WRITTEN) -> None:
        self.code = code
        self.batches: list[tuple[str, list[Item]]] = []
        self.sizes: list[int] = []
        self.database_ms = 0
        self.delay_s = 0.0
        self.then: Callable[[], None] = lambda: None

    async def handle(self, subject: str, message: bytes) -> bytes | None:
        self.database_ms, items = batch.unpack(message)
        self.batches.append((subject, items))
        self.sizes.append(len(message))
        await asyncio.sleep(self.delay_s)
        self.then()
        return None if self.code is None else batch.pack_reply([self.code] * len(items))

    @property
    def items(self) -> list[Item]:
        return [item for _subject, items in self.batches for item in items]


class Clock:
    def now_ms(self) -> int:
        return 1_000_000


class World:
    """A router between twins."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.hub = Hub()
        self.beats = Beats(lambda: self.now_s)
        self.presence = MemoryPresence(self.beats)
        self.journal = Journal()
        self.requeued: list[Job] = []
        self.now_s += GATEWAY_DEAD_MS / 1000
        self.router = Router(
            MemoryBus(self.hub), self.presence, self.beats, self.journal, Clock(), RetryBudget(),
            requeue=self.requeued.append,
        )  # fmt: skip

    async def gateway(
        self, name: str, code: ReceiptCode | None = ReceiptCode.WRITTEN, users: Iterable[str] = "u"
    ) -> Gateway:
        """A gateway that holds these users' devices."""
        gateway = Gateway(code)
        bus = MemoryBus(self.hub)
        for priority in PRIORITIES:
            await bus.serve(gateway_subject(name, priority), gateway.handle)
        for user in users:
            self.presence.online(user_tag("t", user), name, device=name)
        self.beats.beat(name)
        return gateway


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(router_module, "BUS_REQUEST_TIMEOUT_MS", 50)
    return World()


async def test_an_item_carries_what_the_gateway_needs(world: World) -> None:
    gateway = await world.gateway("g1")
    one = job(priority=2, seq=7, attempt=1)
    await world.router.route([one])
    [(subject, [item])] = gateway.batches
    sent = one.notification
    assert subject == gateway_subject("g1", "low")
    assert (item.lane, item.seq, item.prev, item.attempt) == (2, 7, 6, 2)
    assert (item.id, item.tag, item.expiry_ms) == (sent.id.bytes, b"t:dQ", EXPIRY_MS)
    assert item.body.startswith(b'{"t":"n","lane":"direct.low","seq":7,')
    assert gateway.database_ms == 1_000_000


@pytest.mark.parametrize(
    ("codes", "status", "code"),
    [
        ((ReceiptCode.WRITTEN,), Status.DISPATCHED, StatusCode.SENT),
        ((ReceiptCode.FULL,), Status.DISPATCHED, StatusCode.SENT),
        ((ReceiptCode.NO_CONNECTION, ReceiptCode.WRITTEN), Status.DISPATCHED, StatusCode.SENT),
        ((ReceiptCode.EXPIRED, ReceiptCode.FULL), Status.DISPATCHED, StatusCode.SENT),
        ((ReceiptCode.NO_CONNECTION, None), Status.DISPATCHED, StatusCode.SENT),
        ((ReceiptCode.EXPIRED, ReceiptCode.NO_CONNECTION), Status.EXPIRED, StatusCode.EXPIRED_TTL),
        ((ReceiptCode.NO_CONNECTION, ReceiptCode.NO_CONNECTION), Status.PARKED, StatusCode.PARKED_OFFLINE),
        ((ReceiptCode.STALE,), Status.PARKED, StatusCode.PARKED_OFFLINE),
        ((), Status.PARKED, StatusCode.PARKED_OFFLINE),
    ],
)
async def test_what_the_answers_mean(
    world: World, codes: tuple[ReceiptCode | None, ...], status: Status, code: StatusCode
) -> None:
    for number, answer in enumerate(codes):
        await world.gateway(f"g{number}", answer)
    await world.router.route([job()])
    assert world.journal.status() == (status, code)
    outcome = world.journal.only
    assert isinstance(outcome, Transition)
    assert outcome.attempt == (1 if status is Status.DISPATCHED else 0)
    assert outcome.due_in_ms == {
        Status.DISPATCHED: ACK_DUE_MS, Status.PARKED: PARKED_SWEEP_MS, Status.EXPIRED: None
    }[status]  # fmt: skip


async def test_a_gateway_nobody_answers_for_is_gone(world: World) -> None:
    world.presence.online("t:dQ", "gone")
    world.beats.beat("gone")
    await world.router.route([job()])
    assert world.journal.status() == (Status.PARKED, StatusCode.PARKED_GATEWAY_GONE)
    assert world.beats.live() == ()


async def test_a_silent_gateway_is_left_alone_and_holds_up_nobody_else(world: World) -> None:
    silent = await world.gateway("g1", None, users="u")
    other = await world.gateway("g2", users="v")
    await world.router.route([job(user="u"), job(user="v")])
    assert len(silent.items) == len(other.items) == 1
    world.journal.outcomes.clear()
    await world.router.route([job(user="u"), job(user="v")])
    assert len(silent.items) == 1, "it did not answer a moment ago"
    assert len(other.items) == 2
    unsent, sent = sorted(world.journal.outcomes, key=lambda outcome: outcome.notification.user)
    assert isinstance(unsent, Postponement)
    assert unsent.due_in_ms == ACK_DUE_MS
    assert isinstance(sent, Transition)


async def test_while_the_bus_is_away_no_attempt_is_used(world: World) -> None:
    await world.gateway("g1")
    world.hub.up = False
    await world.router.route([job()])
    assert world.journal.only == Postponement(world.journal.only.notification, ACK_DUE_MS)


async def test_a_draining_gateways_items_follow_the_user(world: World) -> None:
    draining = await world.gateway("g1", ReceiptCode.STALE)
    after = await world.gateway("g2", users="")

    draining.then = lambda: world.presence.online("t:dQ", "g2", device="g1")
    await world.router.route([job()])
    assert len(draining.items) == 1
    assert len(after.items) == 1
    assert world.journal.status() == (Status.DISPATCHED, StatusCode.SENT)


async def test_unknown_presence_asks_every_live_gateway(world: World) -> None:
    gateways = [
        await world.gateway("g1", ReceiptCode.NO_CONNECTION, users=""), await world.gateway("g2", users="")
    ]  # fmt: skip
    world.presence.settled = False
    await world.router.route([job()])
    assert [len(gateway.items) for gateway in gateways] == [1, 1]
    assert world.journal.status() == (Status.DISPATCHED, StatusCode.SENT_UNKNOWN_PRESENCE)


async def test_unknown_presence_before_the_gateways_were_heard_parks_nothing(world: World) -> None:
    world.presence.settled = False
    world.beats = world.router._beats = Beats(lambda: world.now_s)
    await world.router.route([job()])
    assert isinstance(world.journal.only, Postponement)


async def test_whoever_connects_while_it_is_parked_gets_it(world: World) -> None:
    world.journal.then = lambda: world.presence.online("t:dQ", "g1")
    await world.router.route([job()])
    assert world.journal.status() == (Status.PARKED, StatusCode.PARKED_OFFLINE)
    [again] = world.requeued
    assert again.parked


async def test_a_second_look_that_finds_nobody_waits_for_a_connect(world: World) -> None:
    await world.router.route([job(parked=True)])
    assert world.journal.only == Postponement(world.journal.only.notification, None)


async def test_a_second_look_goes_on_while_presence_names_a_gateway_that_is_gone(world: World) -> None:
    world.presence.online("t:dQ", "gone")
    await world.router.route([job(parked=True)])
    assert world.journal.only == Postponement(world.journal.only.notification, PARKED_SWEEP_MS)


async def test_nothing_is_sent_after_its_expiry_or_before_its_time(world: World) -> None:
    gateway = await world.gateway("g1")
    await world.router.route([job(expiry_ms=1_000_000)])
    assert world.journal.status() == (Status.EXPIRED, StatusCode.EXPIRED_TTL)
    world.journal.outcomes.clear()
    await world.router.route([job(not_before_ms=1_000_300)])
    assert world.journal.only == Postponement(world.journal.only.notification, 300)
    assert gateway.items == []


async def test_a_retry_says_so_and_is_due_after_its_delay(world: World) -> None:
    await world.gateway("g1")
    await world.router.route([job(attempt=2)])
    assert world.journal.status() == (Status.DISPATCHED, StatusCode.SENT_RETRY)
    outcome = world.journal.only
    assert isinstance(outcome, Transition)
    assert outcome.attempt == 3
    assert outcome.due_in_ms is not None
    assert 2_000 <= outcome.due_in_ms <= 6_000


async def test_retries_over_the_budget_are_parked(world: World) -> None:
    gateway = await world.gateway("g1")
    await world.router.route([job(attempt=1) for _ in range(RETRY_BUDGET_FLOOR_ITEMS + 5)])
    assert len(gateway.items) == RETRY_BUDGET_FLOOR_ITEMS
    spent = [one for one in world.journal.outcomes if isinstance(one, Transition) and one.status is Status.PARKED]
    assert {one.code for one in spent} == {StatusCode.PARKED_RETRIES_SPENT}
    assert len(spent) == 5
    assert all(one.due_in_ms is None for one in spent)


async def test_a_big_group_is_cut_into_batches_in_order(world: World) -> None:
    gateway = await world.gateway("g1")
    payload = b'{"title":"T","body":"' + b"x" * 4_000 + b'"}'
    await world.router.route([job(seq=seq, payload=payload) for seq in range(1, 301)])
    assert len(gateway.batches) > 1
    assert max(gateway.sizes) <= BUS_BATCH_BYTES_MAX
    assert [item.seq for item in gateway.items] == list(range(1, 301))


async def test_batches_sent_at_the_same_time_reach_a_gateway_in_the_order_they_were_planned(world: World) -> None:
    gateway = await world.gateway("g1")
    gateway.delay_s = 0.005
    planned = [await world.router.plan([job(seq=seq)]) for seq in range(1, 9)]
    await asyncio.gather(*(world.router.send(sendings) for sendings in planned))
    assert [item.seq for item in gateway.items] == list(range(1, 9))
