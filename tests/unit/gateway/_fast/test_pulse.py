"""gateway/_fast/pulse over the extension and its twin."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import pulse as extension
from gateway._fast.session import CLOSING, LIVE, Session
from gateway._fast.wheel import Wheel
from notification.limits import HEALTH_PING_CLIENTS_MAX, PONG_DUE_MS
from tests.reference import pulse as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import PING, PONG, frames

TICK_MS = 100
HEARTBEAT_MS = 30_000
AUTH_MS = 5_000
CLOSE_MS = 2_000
RTT_MS = 7


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


class Client:
    """A connection whose peer answers a ping RTT_MS later, unless it is deaf."""

    def __init__(self, epoch: int = 1_795_468_850_347, user: str = "dQ", expiry_ms: int = 0) -> None:
        self.session = Session(0)
        self.session.authenticate("t", "u", "phone", bytes(16), b"t:" + user.encode(), epoch, expiry_ms)
        self.session.begin_live()
        self.opened_ms = 1_000
        self.deadline_ms = 0
        self.deaf = False
        self.gone = False
        self.pings = 0
        self.heard: list[bytes] = []

    def is_open(self) -> bool:
        return not self.gone and self.session.phase <= LIVE

    def flush(self) -> None:
        for opcode, payload in frames(self.session.take()):
            assert opcode == PING
            self.pings += 1
            self.heard.append(payload)

    def answer(self, now_ms: int) -> None:
        heard, self.heard = self.heard, []
        for payload in heard:
            if not self.deaf:
                self.session.feed(PONG, True, 0, payload, now_ms)


class Door:
    def __init__(self, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms


class World:
    """A wheel and its pulse from the time 0 on."""

    def __init__(self, module: Any) -> None:
        self.wheel: Any = Wheel(TICK_MS, 512, 0)
        self.heard: list[int] = []
        self.pulse = module.Pulse(self.wheel, self.heard.append, HEARTBEAT_MS, AUTH_MS, CLOSE_MS)
        self.now_ms = 0

    def run(self, until_ms: int, *clients: Client) -> list[Any]:
        """Beat by beat; what else was due."""
        others = []
        while self.now_ms < until_ms:
            self.now_ms += TICK_MS
            others += self.pulse.beat(self.now_ms)
            for client in clients:
                client.answer(self.now_ms + RTT_MS)
        return others

    def noted(self) -> list[tuple[str, int]]:
        packs = [msgspec.msgpack.decode(pack, type=list[tuple[str, int]]) for pack in self.pulse.take()]
        assert all(len(pack) <= HEALTH_PING_CLIENTS_MAX for pack in packs)
        return [one for pack in packs for one in pack]


@both(extension, twin)
class TestPulse:
    def test_pings_once_per_heartbeat_and_notes_the_answer(self, module: Any) -> None:
        world, client = World(module), Client()
        world.pulse.arm(client, 0)
        assert world.run(HEARTBEAT_MS * 3, client) == []
        assert client.pings == 3
        assert world.run(HEARTBEAT_MS * 3 + PONG_DUE_MS + TICK_MS, client) == []
        assert world.heard == [RTT_MS] * 3
        assert world.noted() == [("t.dQ.phone", RTT_MS)] * 3
        assert world.noted() == []

    def test_hands_over_who_does_not_answer(self, module: Any) -> None:
        world, client = World(module), Client()
        client.deaf = True
        world.pulse.arm(client, 0)
        assert world.run(HEARTBEAT_MS + PONG_DUE_MS + TICK_MS, client) == [client]
        assert client.pings == 1
        assert len(world.wheel) == 0
        assert world.noted() == []

    def test_hands_over_whose_token_ended(self, module: Any) -> None:
        world, client = World(module), Client(expiry_ms=250)
        world.pulse.arm(client, 0)
        assert client.deadline_ms == 250
        assert world.run(200, client) == []
        assert world.run(300, client) == [client]
        assert client.pings == 0

    def test_hands_over_who_is_gone(self, module: Any) -> None:
        world, client = World(module), Client()
        world.pulse.arm(client, 0)
        client.gone = True
        assert world.run(HEARTBEAT_MS + TICK_MS, client) == [client]

    def test_hands_over_what_is_no_connection(self, module: Any) -> None:
        world, door = World(module), Door(300)
        world.wheel.arm(door, 300)
        assert world.run(1_000) == [door]

    def test_an_entry_before_the_deadline_is_an_old_one(self, module: Any) -> None:
        world, door = World(module), Door(300)
        world.wheel.arm(door, 300)
        door.deadline_ms = 900
        assert world.run(1_000) == []

    def test_before_auth_only_auth_is_due(self, module: Any) -> None:
        world, client = World(module), Client()
        client.session = Session(0)
        world.pulse.arm(client, 3_000)
        assert client.deadline_ms == 1_000 + AUTH_MS
        assert world.run(1_000 + AUTH_MS, client) == [client]

    def test_after_our_close_the_answer_is_due(self, module: Any) -> None:
        world, client = World(module), Client()
        client.session.close(1000, "")
        assert client.session.phase == CLOSING
        world.pulse.arm(client, 3_000)
        assert client.deadline_ms == 3_000 + CLOSE_MS

    def test_the_earliest_comes_first(self, module: Any) -> None:
        world, client = World(module), Client()
        client.session.ping(500)
        world.pulse.arm(client, 500)
        assert client.deadline_ms == min(500 + PONG_DUE_MS, client.deadline_ms)
        client.session.token_expiry_ms = 501
        world.pulse.arm(client, 500)
        assert client.deadline_ms == 501

    def test_connections_of_one_storm_ping_at_different_times(self, module: Any) -> None:
        world = World(module)
        slots = []
        for n in range(3_000):
            client = Client(epoch=1_795_468_850_000 + n)
            world.pulse.arm(client, 0)
            slots.append(client.deadline_ms)
        tenths = [sum((slot - 1) * 10 // HEARTBEAT_MS == n for slot in slots) for n in range(10)]
        assert min(tenths) > 250
        assert max(tenths) < 350

    def test_more_than_a_message_takes_become_several(self, module: Any) -> None:
        world = World(module)
        count = HEALTH_PING_CLIENTS_MAX + 3
        clients = [Client(user=f"u{n}") for n in range(count)]
        for client in clients:
            world.pulse.arm(client, 0)
        world.run(HEARTBEAT_MS + PONG_DUE_MS + TICK_MS, *clients)
        noted = world.noted()
        assert sorted(noted) == sorted((f"t.u{n}.phone", RTT_MS) for n in range(count))


_CLIENTS = st.lists(
    st.tuples(
        st.integers(1, 2**41),
        st.sampled_from(["dQ", "", "x" * 171]),
        st.sampled_from([0, 999, 44_000]),
        st.booleans(),
    ),
    max_size=5,
)  # epoch, user, when the token ends, whether it is deaf


@settings(max_examples=60, deadline=None)
@given(_CLIENTS)
def test_extension_and_twin_agree(seeds: list[tuple[int, str, int, bool]]) -> None:
    seen = []
    for module in (extension, twin):
        world = World(module)
        clients = [Client(epoch, user, expiry_ms) for epoch, user, expiry_ms, _ in seeds]
        for client, (_, _, _, deaf) in zip(clients, seeds, strict=True):
            client.deaf = deaf
            world.pulse.arm(client, 0)
        others = [clients.index(other) for other in world.run(75_000, *clients)]
        seen.append((others, world.heard, world.noted(), [(one.pings, one.deadline_ms) for one in clients]))
    assert seen[0] == seen[1]


def test_what_is_no_client_id_is_refused() -> None:
    world, client = World(extension), Client()
    client.session.authenticate("t", "u", "d" * 600, bytes(16), b"t:dQ", 1, 0)
    world.pulse.arm(client, 0)
    with pytest.raises(ValueError, match="client id"):
        world.run(HEARTBEAT_MS + PONG_DUE_MS + TICK_MS, client)
