"""The memory twin of notification.bus.NatsBus: several buses on one Hub, as several clients on one server."""

import asyncio
from collections import deque
from collections.abc import Callable

from notification import telemetry
from notification.bus import Handler, Served
from notification.errors import BusTimeout, NoResponders, Unavailable
from notification.limits import BUS_MESSAGE_BYTES_MAX, BUS_PENDING_MESSAGES_MAX

Reply = Callable[[bytes], None]


class _Subscription:
    """Messages of one subject pattern, handled one after the other or each in a task of its own."""

    def __init__(self, subject: str, handler: Handler, queue: str, concurrent: bool) -> None:
        self.tokens = subject.split(".")
        self.queue = queue
        self._handler = handler
        self._concurrent = concurrent
        self._pending: deque[tuple[str, bytes, Reply | None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = False
        self.forget: Callable[[_Subscription], None] = lambda subscription: None

    def matches(self, subject: str) -> bool:
        """NATS wildcards: `*` is one token, `>` the rest."""
        tokens = subject.split(".")
        for place, token in enumerate(self.tokens):
            if token == ">":
                return len(tokens) > place
            if place >= len(tokens) or token not in ("*", tokens[place]):
                return False
        return len(tokens) == len(self.tokens)

    def deliver(self, subject: str, payload: bytes, reply: Reply | None) -> None:
        if len(self._pending) >= BUS_PENDING_MESSAGES_MAX:
            telemetry.BUS_DROPPED.inc()
            return
        if self._concurrent:
            self._spawn(self._handle(subject, payload, reply))
            return
        self._pending.append((subject, payload, reply))
        if not self._busy:
            self._busy = True
            self._spawn(self._drain())

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        while self._pending:
            await self._handle(*self._pending.popleft())
        self._busy = False

    async def _handle(self, subject: str, payload: bytes, reply: Reply | None) -> None:
        answer = await self._handler(subject, payload)
        if answer is not None and reply is not None:
            reply(answer)

    async def stop(self) -> None:
        """Served: only a MemoryBus makes one, and a Hub forgets it."""
        self._pending.clear()
        self.forget(self)

    async def settle(self) -> None:
        """Until all delivered messages are handled."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class Hub:
    """What a NATS server is to its clients. `up = False` takes it away from all of them."""

    def __init__(self) -> None:
        self._up = True
        self.buses: list[MemoryBus] = []
        self._subscriptions: list[_Subscription] = []
        self._turn = 0

    @property
    def up(self) -> bool:
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        returned, self._up = up and not self._up, up
        for bus in self.buses if returned else ():
            bus.returned()

    def add(self, subscription: _Subscription) -> None:
        self._subscriptions.append(subscription)

    def remove(self, subscription: _Subscription) -> None:
        """Nothing if it was removed before."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def send(self, subject: str, payload: bytes, reply: Reply | None) -> int:
        """Deliver to every plain subscription and one member of each queue group; to how many."""
        matching = [subscription for subscription in self._subscriptions if subscription.matches(subject)]
        chosen = [subscription for subscription in matching if not subscription.queue]
        self._turn += 1
        for queue in sorted({subscription.queue for subscription in matching if subscription.queue}):
            members = [subscription for subscription in matching if subscription.queue == queue]
            chosen.append(members[self._turn % len(members)])
        for subscription in chosen:
            subscription.deliver(subject, payload, reply)
        return len(chosen)


class MemoryBus:
    """notification.bus.Bus over a Hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = True
        self._subscriptions: list[_Subscription] = []
        self.returned: Callable[[], None] = lambda: None
        hub.buses.append(self)

    @property
    def connected(self) -> bool:
        return self._hub.up and self._open

    async def publish(self, subject: str, payload: bytes) -> None:
        assert len(payload) <= BUS_MESSAGE_BYTES_MAX
        if not (self._hub.up and self._open):
            telemetry.BUS_DROPPED.inc()
            return
        self._hub.send(subject, payload, None)

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        assert len(payload) <= BUS_MESSAGE_BYTES_MAX
        if not (self._hub.up and self._open):
            raise Unavailable("the bus is away")
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def reply(payload: bytes) -> None:
            if not answered.done():
                answered.set_result(payload)

        if self._hub.send(subject, payload, reply) == 0:
            raise NoResponders(subject)
        try:
            return await asyncio.wait_for(answered, timeout_s)
        except TimeoutError as error:
            raise BusTimeout(subject) from error

    async def serve(self, subject: str, handler: Handler, queue: str = "", concurrent: bool = False) -> Served:
        subscription = _Subscription(subject, handler, queue, concurrent)
        subscription.forget = self._hub.remove
        self._subscriptions.append(subscription)
        self._hub.add(subscription)
        return subscription

    async def close(self) -> None:
        if self._open:
            self._hub.buses.remove(self)
        self._open = False
        for subscription in self._subscriptions:
            self._hub.remove(subscription)
        for subscription in self._subscriptions:
            await subscription.settle()
        self._subscriptions.clear()
