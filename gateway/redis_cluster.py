"""Pipeline over a Redis Cluster: a node per master, commands routed by the slot of their key, in order per key.

A MOVED, a lost node or a slot without a master starts a *turn*: nothing new is sent, what is under way is awaited,
the slots are read anew, and everything without an answer goes out again by the new table, in its old order. So no
command overtakes an older one of its key, whatever moved. An ASK is obeyed for its command alone.
"""

import asyncio
from typing import Any, Final

import structlog

from gateway._fast.exchange import Exchange
from gateway._fast.resp import SLOTS_COUNT, Refusal, pack, slot_of
from gateway.pipeline import refuse
from gateway.redis_node import Argument, Node, Told, Waiter, fail, greet, open_link
from notification.errors import Unavailable
from notification.lifecycle import essential
from notification.limits import (
    PIPELINE_BYTES_MAX,
    PIPELINE_COMMANDS_MAX,
    REDIS_NODES_COUNT_MAX,
    REDIS_REPLY_MS_MAX,
    REDIS_RETRY_MS,
    REDIS_RETRY_MS_MAX,
)
from notification.redis_address import Kind, Place, RedisAddress

_log = structlog.get_logger("redis")

_SCRIPTS: Final = ("EVAL", "EVALSHA")
_ASKING: Final = pack(("ASKING",))
_NO_KEY: Final = -1
_QUIET_POLL_S: Final = 0.002

Queued = tuple[bytes, Any, int, bool]  # as of Exchange.drain()
Slots = list[tuple[int, int, Place]]  # first and last slot, their master


def key_slot(command: tuple[Argument, ...]) -> int:
    """The slot of a command's (first) key; -1: it has none. Commands are those that Herald sends."""
    at = 3 if command[0] in _SCRIPTS else 1
    key = command[at] if at < len(command) else None
    return slot_of(key) if isinstance(key, str | bytes) else _NO_KEY


def read_slots(reply: Any, asked: Place) -> Slots:
    """The answer to CLUSTER SLOTS. Raises ValueError when it is none.

    A node that does not know its host says nil, "" or "?", and means the one at which it was asked.
    """
    ranges: Slots = []
    for one in reply if isinstance(reply, list) else (None,):
        match one:
            case [int(first), int(last), [host, int(port), *_], *_] if 0 <= first <= last < SLOTS_COUNT:
                name = host.decode("ascii", "replace") if isinstance(host, bytes) else ""
                ranges.append((first, last, (asked[0] if name in ("", "?") else name, port)))
            case _:
                raise ValueError("no answer to CLUSTER SLOTS")
    if len({place for _, _, place in ranges}) > REDIS_NODES_COUNT_MAX:
        raise ValueError("more masters than REDIS_NODES_COUNT_MAX")
    return ranges


def read_place(text: str, asked: Place) -> Place | None:
    """`host:port` of a MOVED or ASK; without a host it means the one that was asked. None: it is no place."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        return None
    return (asked[0] if host in ("", "?") else host), int(port)


class ClusterPipeline:
    """gateway.pipeline.Pipeline over the masters of a cluster."""

    def __init__(self, address: RedisAddress) -> None:
        assert address.kind is Kind.CLUSTER
        self._address = address
        self._nodes: dict[Place, Node] = {}
        self._owners: list[Node | None] = [None] * SLOTS_COUNT
        self._masters: set[Node] = set()  # those in _owners
        self._held = Exchange()  # during a turn, or without an owner: never sent from here
        self._redirected: list[Queued] = []  # by MOVED: they go first when the turn ends
        self._moved: dict[int, Place] = {}  # what MOVED said, newer than any table
        self._turning = False
        self._wanted = False  # there is reason for a turn
        self._turns: asyncio.Task[None] | None = None
        self._closed = False
        self._first = asyncio.Event()

    async def start(self, timeout_s: float) -> None:
        """Connect to every master. Raises Unavailable when that takes over `timeout_s`."""
        self._want_turn()
        try:
            async with asyncio.timeout(timeout_s):
                await self._first.wait()
        except TimeoutError as error:
            await self.close()
            raise Unavailable(f"{self._address} did not answer within {timeout_s:g} s") from error

    @property
    def connected(self) -> bool:
        return bool(self._masters) and all(node.connected for node in self._masters)

    @property
    def queued(self) -> int:
        waiting = sum([len(node.exchange) for node in self._nodes.values()])
        return waiting + len(self._held) + len(self._redirected)

    def _full(self) -> bool:
        held = self._held.waiting_bytes + sum([len(one[0]) for one in self._redirected])
        waiting = sum([node.exchange.waiting_bytes for node in self._nodes.values()])
        return self.queued >= PIPELINE_COMMANDS_MAX or held + waiting >= PIPELINE_BYTES_MAX

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        if self._full():
            return False
        slot = key_slot(command)
        node = None if self._turning else self._owner(slot)
        if node is None:
            self._held.put(command, told, slot)
        else:
            node.exchange.put(command, told, slot)
            node.wake()
        return True

    async def call(self, *command: Argument) -> Any:
        slot = key_slot(command)
        owner = self._owner(slot)
        if owner is None or not owner.connected or self._full():
            raise Unavailable("Redis is away")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        exchange = self._held if self._turning else owner.exchange
        exchange.put(command, reply, slot, once=True)
        owner.wake()
        return await reply

    async def settled(self) -> None:
        while self.queued:
            if not self.connected:
                raise Unavailable("Redis is away")
            await asyncio.sleep(_QUIET_POLL_S)

    async def close(self) -> None:
        self._closed = True
        if self._turns is not None:
            self._turns.cancel()
            await asyncio.gather(self._turns, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()
        self._masters.clear()
        self._owners = [None] * SLOTS_COUNT
        fail([waiter for _, waiter, _, _ in (*self._redirected, *self._held.drain())], "Redis is away")
        self._redirected.clear()

    def _owner(self, slot: int) -> Node | None:
        if slot == _NO_KEY:
            return next(iter(self._masters), None)
        return self._owners[slot]

    def _node(self, place: Place) -> Node:
        """The node at a place; a new one begins to connect."""
        node = self._nodes.get(place)
        if node is None:

            async def locate() -> Place:
                return place

            node = self._nodes[place] = Node(self._address, locate, self._refused, self._changed)
            node.held = self._turning
            node.start()
        return node

    def _may_have(self, place: Place) -> bool:
        """Whether there may be a node at a place: a server that names ever new ones does not open ever more."""
        return place in self._nodes or len(self._nodes) < REDIS_NODES_COUNT_MAX

    def _refused(self, node: Node, waiter: Waiter, refusal: Refusal) -> None:
        match refusal.text.split(" "):
            case ["MOVED" | "ASK" as code, slot, where] if slot.isdecimal():
                place = read_place(where, node.place)
            case _:
                place = None
        if place is None:
            refuse(node, waiter, refusal)
            return
        packed, own_slot, once = node.exchange.refused()
        node.exchange.forget()
        if code == "MOVED":
            self._redirected.append((packed, waiter, own_slot, once))
            self._moved[int(slot) % SLOTS_COUNT] = place
            self._want_turn()
        elif self._turning or not self._may_have(place):
            self._want_turn()
            self._redirected.append((packed, waiter, own_slot, once))
        else:  # the key is at another node already, while its slot is not yet
            target = self._node(place)
            target.exchange.put_packed(_ASKING, None, own_slot, once=True)
            target.exchange.put_packed(packed, waiter, own_slot, once)
            target.wake()

    def _changed(self, node: Node) -> None:
        """A node came up, went away or did not come up: its slots may have a new master then."""
        if not node.connected:
            self._want_turn()
        elif self.connected:
            self._first.set()

    def _want_turn(self) -> None:
        self._wanted = not self._closed
        if self._wanted and self._turns is None:
            self._turns = essential(self._take_turns())

    async def _take_turns(self) -> None:
        """One after another while there is reason; commands flow between them."""
        pause_ms = REDIS_RETRY_MS
        while self._wanted:
            self._wanted = False
            known = await self._turn()
            if known and not len(self._held):
                pause_ms = REDIS_RETRY_MS
            else:
                self._wanted = True
                pause_ms = min(pause_ms * 2, REDIS_RETRY_MS_MAX)
            await asyncio.sleep(pause_ms / 1_000)
        self._turns = None

    async def _turn(self) -> bool:
        """Whether the table of slots could be read."""
        self._turning = True
        for node in self._nodes.values():
            node.held = True
        while any(node.exchange.sent for node in self._nodes.values()):  # noqa: ASYNC110 - links answer or stall
            await asyncio.sleep(_QUIET_POLL_S)
        slots = await self._read_slots()
        queued = self._collect()
        await self._apply(slots or [])
        self._turning = False
        for node in self._nodes.values():
            node.held = False
        for one in queued:
            self._route(*one)
        for node in self._nodes.values():
            node.wake()
        if self.connected:
            self._first.set()
        return slots is not None

    async def _read_slots(self) -> Slots | None:
        """Ask whoever should know; None: nobody does."""
        live = [place for place, node in self._nodes.items() if node.connected]
        for place in dict.fromkeys((*live, *self._address.places, *self._nodes)):
            try:
                link = await open_link(place, self._address.tls)
            except (OSError, TimeoutError):  # the next one is asked
                continue
            try:
                async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
                    if await greet(link, self._address):
                        return read_slots(await link.ask("CLUSTER", "SLOTS"), place)
            except (TimeoutError, Unavailable, ValueError) as error:
                _log.warning("redis_slots_unread", error=type(error).__name__)
            finally:
                link.end()
        return None

    def _collect(self) -> list[Queued]:
        """Everything without an answer, in the order of its key: what was ASKed on, what MOVED, what waits."""
        asked: list[Queued] = []
        own: list[Queued] = []
        for node in self._nodes.values():
            for one in node.exchange.drain():
                if one[3] and one[1] is None:  # an ASKING
                    continue
                (own if self._owner(one[2]) is node else asked).append(one)
        queued = [*asked, *self._redirected, *own, *self._held.drain()]
        self._redirected.clear()
        return queued

    async def _apply(self, slots: Slots) -> None:
        """Take a table over, and what MOVED said since; who owns nothing is let go."""
        if slots:
            self._owners = [None] * SLOTS_COUNT
        for first, last, place in slots:
            self._owners[first : last + 1] = [self._node(place)] * (last + 1 - first)
        for slot, place in self._moved.items():
            if self._may_have(place):
                self._owners[slot] = self._node(place)
        self._moved.clear()
        self._masters = {node for node in self._owners if node is not None}
        for place, node in list(self._nodes.items()):
            if node not in self._masters:
                del self._nodes[place]
                await node.close()

    def _route(self, packed: bytes, waiter: Any, slot: int, once: bool) -> None:
        node = self._owner(slot)
        if once and (node is None or not node.connected):
            fail([waiter], "Redis went away before it answered")
        elif node is None:
            self._held.put_packed(packed, waiter, slot, once)
        else:
            node.exchange.put_packed(packed, waiter, slot, once)
