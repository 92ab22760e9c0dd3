"""What only the engine has to prove: its listener, doors, slots and descriptors. The rest is in test_carrier.py."""

import asyncio
import contextlib
import os
import random
import resource
import socket
import statistics
import struct
import time

import pytest

from gateway._fast import doors
from gateway._fast import engine as extension
from gateway._fast.engine import Engine
from gateway._fast.session import LIVE
from gateway._fast.upgrade import Parsed
from notification import limits
from notification.codes import Closes, Refusals
from tests.unit.gateway._fast.carriers import Doorkeeper, Recorder, client, engine_serving, masked, raw
from tests.unit.gateway._fast.extensions import is_extension
from tests.unit.gateway._fast.sessions import CLOSE, PING, PONG, TEXT, frames

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Later(Doorkeeper):
    """Answers nobody by itself."""

    def request(self, handle: int, outcome: Parsed | int) -> None:
        self.handles.append(handle)


async def until(condition: object, timeout_s: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, seen from outside
            await asyncio.sleep(0.005)


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


def test_constants_are_those_of_the_contract() -> None:
    assert Closes.INTERNAL[:2] == extension.INTERNAL
    assert (Refusals.MALFORMED.status, Refusals.TOO_MANY.status) == (doors.MALFORMED, doors.TOO_MANY)


def test_nobody_else_makes_connections() -> None:
    with pytest.raises(TypeError, match="upgrade"):
        extension.EngineConnection()


async def test_the_head_may_come_byte_by_byte() -> None:
    async with engine_serving(Recorder()) as (engine, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in HEAD:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (engine.connections(), engine.doors()) == (1, 0)
        writer.close()


async def test_frames_behind_the_head_are_heard() -> None:
    recorder = Recorder()
    async with engine_serving(recorder) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + masked(PING, b"abc") + masked(TEXT, b"hello")[:5])
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"\x8a\x03abc"
        writer.close()


async def test_a_tail_larger_than_a_frame_is_refused() -> None:
    async with engine_serving(Recorder()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"x" * 20_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_request_may_be_judged_later() -> None:
    recorder, doorkeeper = Recorder(), Later()
    async with engine_serving(recorder, doorkeeper) as (engine, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + masked(TEXT, b"early"))
        await until(lambda: doorkeeper.handles)
        writer.write(masked(TEXT, b"later"))
        used = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - used < 0.05  # unread input does not make the loop spin
        assert engine.doors() == 1
        assert engine.upgrade(doorkeeper.handles[0], b"101\r\n\r\n", "ready") is True
        assert engine.upgrade(doorkeeper.handles[0], b"101\r\n\r\n", "ready") is False
        assert engine.answer(doorkeeper.handles[0], b"no") is False
        await reader.readuntil(b"\r\n\r\n")
        await recorder.until(lambda: len(recorder.texts) == 2)
        assert (recorder.texts, recorder.ready) == ([b"early", b"later"], ["ready"])
        writer.close()


async def test_a_client_that_leaves_while_it_is_judged() -> None:
    doorkeeper = Later()
    async with engine_serving(Recorder(), doorkeeper) as (engine, port):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(HEAD)
            await until(lambda: doorkeeper.handles)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: engine.doors() == 0)
        assert engine.upgrade(doorkeeper.handles[0], b"101", None) is False
        assert engine.answer(doorkeeper.handles[0], b"no") is False


async def test_a_stale_handle_never_reaches_the_next_socket() -> None:
    """The same slot and, by the kernel's habit, the same descriptor."""
    doorkeeper = Later()
    async with engine_serving(Recorder(), doorkeeper) as (engine, port):
        with socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(HEAD)
            await until(lambda: len(doorkeeper.handles) == 1)
        engine.answer(doorkeeper.handles[0], b"bye")
        await until(lambda: engine.doors() == 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        await until(lambda: len(doorkeeper.handles) == 2)
        old, new = doorkeeper.handles
        assert old & 0xFFFFFFFF == new & 0xFFFFFFFF
        assert engine.upgrade(old, b"not for you", None) is False
        assert engine.answer(old, b"not for you") is False
        for handle in (0, 1 << 63, 0xFFFFFFFF, new + (1 << 20)):
            assert engine.answer(handle, b"nobody") is False
        assert engine.answer(new, b"for you") is True
        assert await reader.read() == b"for you"
        writer.close()


async def test_an_answer_larger_than_the_socket_takes() -> None:
    doorkeeper, data = Later(), os.urandom(5_000_000)
    async with engine_serving(Recorder(), doorkeeper) as (engine, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        await until(lambda: doorkeeper.handles)
        engine.answer(doorkeeper.handles[0], data)
        assert await reader.read() == data
        writer.close()
        await until(lambda: engine.doors() == 0)


async def test_a_silent_client_is_dropped_in_time() -> None:
    async with engine_serving(Recorder()) as (engine, port):
        engine.head_deadline_ms = 200
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD[:40])
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert 0.19 < time.monotonic() - started < 4
        assert engine.doors() == 0
        writer.close()


async def test_overload_is_told_before_anything_is_read() -> None:
    async with engine_serving(Recorder()) as (engine, port):
        engine.sockets_max = 1
        async with client(port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()


async def test_accepted_sockets_do_not_wait_for_more() -> None:
    """TCP_NODELAY comes from the listening socket."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    engine = Engine(asyncio.get_running_loop(), Recorder(), Doorkeeper(), 10, 1_000)
    engine.listen(sock)
    try:
        with socket.create_connection(sock.getsockname()):
            await until(lambda: engine.doors() == 1)
            ours = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_accepted(fd, sock.getsockname())]
            assert len(ours) == 1
            with socket.socket(fileno=os.dup(ours[0])) as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    finally:
        engine.close()


def is_accepted(fd: int, address: object) -> bool:
    """A connected socket on the server's side."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.getsockname() == address and bool(sock.getpeername())
    except OSError:
        return False


async def test_out_of_descriptors_it_neither_spins_nor_stops() -> None:
    recorder = Recorder()
    async with engine_serving(recorder) as (engine, port):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        held = [os.dup(0) for _ in range(20)]  # leave no hole below the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, *held) + 1, hard))
        try:
            while True:
                try:
                    held.append(os.dup(0))
                except OSError:
                    break
            for sock in waiting:
                with contextlib.suppress(BlockingIOError):
                    sock.connect(("127.0.0.1", port))
            used = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - used < 0.1
            assert engine.doors() == 0
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: engine.doors() == 3)
        for sock in waiting:
            sock.close()
        async with client(port) as websocket:
            await websocket.send("{}")
            assert await websocket.recv() == "{}"


async def test_close_drops_everybody_and_tells_the_policy() -> None:
    recorder = Recorder()
    async with engine_serving(recorder) as (engine, port), raw(port), raw(port):
        await recorder.until(lambda: len(recorder.connections) == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: engine.doors() == 1)
        engine.close()
        assert recorder.ends == [(False, 0)] * 2
        assert (engine.doors(), engine.connections()) == (0, 0)
        engine.close()
        writer.close()
        assert reader is not None


async def test_who_was_accepted_by_the_kernel_is_served_after_stop() -> None:
    recorder = Recorder()
    async with engine_serving(recorder) as (engine, port):
        sock = socket.create_connection(("127.0.0.1", port))
        engine.stop_listening()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(sock, HEAD)
        assert (await asyncio.get_running_loop().sock_recv(sock, 12)) == b"HTTP/1.1 101"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        sock.close()


async def test_the_loop_has_its_turn_in_a_storm() -> None:
    """Floods do not keep a timer of the loop waiting."""
    recorder = Recorder()
    recorder.answer = lambda connection, text: None
    async with engine_serving(recorder) as (_, port):
        peers = []
        for _ in range(200):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(HEAD)
            peers.append(sock)
        await recorder.until(lambda: len(recorder.connections) == 200)
        for sock in peers:
            sock.sendall(masked(TEXT, b"x") * 30)
        late = []
        for _ in range(20):
            started = time.monotonic()
            await asyncio.sleep(0.001)
            late.append(time.monotonic() - started)
        assert statistics.median(late) < 0.2
        for sock in peers:
            sock.close()


async def test_a_turn_takes_a_bounded_number_of_events() -> None:
    """What it leaves is taken by the next one; between them the loop has its turn."""
    recorder = Recorder()
    recorder.answer = lambda connection, text: None
    count = limits.ENGINE_EVENTS_COUNT_MAX + 10
    async with engine_serving(recorder) as (engine, port):
        peers = []
        for _ in range(count):
            peers.append(socket.create_connection(("127.0.0.1", port)))
            peers[-1].sendall(HEAD)
        await recorder.until(lambda: len(recorder.connections) == count)
        for sock in peers:
            sock.sendall(masked(TEXT, b"x"))  # loopback: it is readable when this returns
        deadline, turns = time.monotonic() + 10, 0
        while len(recorder.texts) < count:
            before = len(recorder.texts)
            engine.turn()
            turns += 1
            assert len(recorder.texts) - before <= limits.ENGINE_EVENTS_COUNT_MAX
            assert time.monotonic() < deadline
        assert turns >= 2
        for sock in peers:
            sock.close()


class Chaos(Recorder):
    """Does to connections what a policy may do, at random, and checks that nobody reads another's bytes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.live: set[object] = set()
        self.foreign = 0

    def opened(self, connection: object) -> None:
        super().opened(connection)  # type: ignore[arg-type]
        self.live.add(connection)
        if self.random.random() < 0.1:
            connection.abort()  # type: ignore[attr-defined]

    def message(self, connection: object, text: bytes) -> None:
        assert connection in self.live
        chance = self.random.random()
        if chance < 0.05:
            connection.abort()  # type: ignore[attr-defined]
        elif chance < 0.1:
            connection.close(4409, "bye")  # type: ignore[attr-defined]
        elif chance < 0.2:
            other = self.random.choice(sorted(self.live, key=id))
            other.abort()  # type: ignore[attr-defined]
        elif chance < 0.25:
            raise RuntimeError("a bug of ours")
        else:
            connection.session.send(text * self.random.choice([1, 10, 2_000]))  # type: ignore[attr-defined]

    def closed(self, connection: object, clean: bool) -> None:
        self.live.remove(connection)
        super().closed(connection, clean)  # type: ignore[arg-type]


async def one_client(port: int, chance: random.Random, name: bytes) -> None:
    """Connects, talks in pieces, reads or does not, leaves in one of many ways. Hears only its own name."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        if chance.random() < 0.1:
            writer.write(HEAD[: chance.randrange(len(HEAD))])
            return
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(chance.randrange(8)):
            data = masked(TEXT, name * chance.choice([1, 20]))
            cut = chance.randrange(len(data))
            writer.write(data[:cut])
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            writer.write(data[cut:])
        if chance.random() < 0.3:
            writer.write(masked(CLOSE, b"\x03\xe8"))
        elif chance.random() < 0.5:
            writer.write(masked(TEXT, b"never whole")[:6])
        heard = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                while piece := await reader.read(1 << 20):
                    heard += piece
        check_heard(heard, name)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # dropped by the policy, as it may
    except RuntimeError as error:
        assert "handler is closed" in str(error)  # noqa: PT017 - uvloop's word for a reset it saw
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()


def check_heard(heard: bytes, name: bytes) -> None:
    """Whole frames hold the client's own name and nothing else."""
    whole = b""
    while heard:
        count = heard[1] & 0x7F
        at = {126: 4, 127: 10}.get(count, 2)
        count = int.from_bytes(heard[2:at], "big") if at > 2 else count
        if len(heard) < at + count:
            break
        whole += heard[at : at + count] if heard[0] & 0xF == TEXT else b""
        heard = heard[at + count :]
    assert whole.replace(name, b"") == b""


def open_sockets() -> int:
    """Descriptors of this process that are sockets; the loop opens other ones as it likes."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count


async def test_many_comings_and_goings() -> None:
    """Memory safety under a random load of about ten seconds; PYTHONMALLOC=debug makes it stricter."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chaos, chance = Chaos(seed), random.Random(seed)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    before = open_sockets()
    async with engine_serving(chaos) as (engine, port):
        ends = time.monotonic() + 8
        number = 0
        while time.monotonic() < ends:
            batch = [one_client(port, chance, b"<%08d>" % (number + index)) for index in range(100)]
            number += 100
            await asyncio.gather(*batch)
        await until(lambda: engine.connections() == 0 and engine.doors() == 0)
        assert len(chaos.live) == 0
        assert len(chaos.ends) == len(chaos.connections)
        assert number > 500
    await until(lambda: open_sockets() == before)


async def test_a_server_ping_and_its_pong() -> None:
    recorder = Recorder()
    async with engine_serving(recorder) as (_, port), raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        session = recorder.connections[0].session
        assert session.phase == LIVE
        session.ping(limits.HEARTBEAT_MS)
        recorder.connections[0].flush()
        ((opcode, payload),) = frames(await peer.read(6))
        assert opcode == PING
        await peer.send(masked(PONG, payload))
        await until(lambda: session.pong_due_ms() == 0)
