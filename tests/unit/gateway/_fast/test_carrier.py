"""The contract of a carrier (gateway/_fast/carrier.py), over both: the websockets library, aiohttp, raw sockets."""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from gateway._fast.carrier import Connection
from gateway._fast.session import CLOSED, CLOSING, WRITTEN
from notification import limits
from notification.codes import Closes, Lane
from tests.unit.gateway._fast.carriers import TIMEOUT_S, Recorder, client, masked, raw, serving
from tests.unit.gateway._fast.sessions import CLOSE, PONG, TEXT, ack_of, frames, ident


@pytest.fixture(params=["engine", "picows"])
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def port(carrier: str, recorder: Recorder) -> AsyncIterator[int]:
    async with serving(carrier, recorder) as port:
        yield port


async def test_messages_go_in_and_come_out(recorder: Recorder, port: int) -> None:
    async with client(port) as websocket:
        for text in ("{}", "ü€😀" * 1_000, ""):
            await websocket.send(text)
            assert await websocket.recv() == text
        await websocket.send(["in ", "three ", "parts"])
        assert await websocket.recv() == "in three parts"
        connection = recorder.connections[0]
        assert (connection.is_open(), connection.congested(), connection.peer) == (True, False, "127.0.0.1")
        assert (recorder.ready, connection.ready, connection.state) == (["as the door decided"], None, None)
    assert await recorder.ended() == (True, 1000)


async def test_pings_are_answered(recorder: Recorder, port: int) -> None:
    async with client(port) as websocket:
        async with asyncio.timeout(TIMEOUT_S):
            await (await websocket.ping(b"hello"))
        connection = recorder.connections[0]
        connection.session.ping(1)
        connection.flush()
        assert connection.session.pong_due_ms() > 0
        await websocket.send("{}")
        await websocket.recv()  # the library has answered our ping before
        assert (connection.session.pong_due_ms(), connection.session.take_rtt_ms() >= 0) == (0, True)


async def test_replies_go_out_once_per_read(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await peer.send(b"".join(masked(TEXT, b"%d" % number) for number in range(5)))
        await recorder.until(lambda: len(recorder.texts) == 5)
        assert recorder.pending == [3, 6, 9, 12, 15]
        assert list(frames(await peer.read(15))) == [(TEXT, b"%d" % number) for number in range(5)]


def written(connection: Connection, number: int) -> None:
    """One more notification, its id that number, in the window and on its way."""
    assert connection.session.offer(Lane.DIRECT_HIGH, number, number - 1, ident(number), b"{}") == WRITTEN
    connection.flush()


async def test_acks_bypass_the_policy_while_it_has_nothing_of_the_connection(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        for number in range(1, 6):
            written(connection, number)
        await peer.send(masked(TEXT, ack_of(1)) + masked(TEXT, ack_of(2, 3)) + masked(TEXT, b"{}"))
        await recorder.until(lambda: recorder.texts)
        assert (len(recorder.acks), connection.session.unacked()) == (3, 2)
        assert (recorder.texts, recorder.acked_count) == ([b"{}"], 0)

        connection.session.offer(Lane.DIRECT_HIGH, 9, 8, ident(9), b"{}")  # a gap: the session wants what is before
        await peer.send(masked(TEXT, ack_of(1)) + masked(TEXT, ack_of(4)))
        await recorder.until(lambda: recorder.acked_count)
        assert (len(recorder.acks), connection.session.unacked()) == (4, 1)

        connection.state = "something is owed"
        await peer.send(masked(TEXT, ack_of(5)) + masked(TEXT, b"end"))
        await recorder.until(lambda: recorder.texts[-1] == b"end")
        assert recorder.texts == [b"{}", ack_of(5), b"end"]
        assert (len(recorder.acks), connection.session.unacked(), recorder.acked_count) == (4, 1, 1)


async def test_acks_of_a_session_that_is_not_live_go_to_the_policy(carrier: str) -> None:
    class Resuming(Recorder):
        def opened(self, connection: Connection) -> None:
            self.connections.append(connection)
            connection.session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
            connection.session.fill(Lane.DIRECT_HIGH, 1, 0, ident(1), b"{}")

    recorder = Resuming()
    async with serving(carrier, recorder) as port, raw(port) as peer:
        await peer.send(masked(TEXT, ack_of(1)))
        await recorder.until(lambda: recorder.texts)
        assert (recorder.texts, len(recorder.acks)) == ([ack_of(1)], 0)
        assert recorder.connections[0].session.unacked() == 1


async def test_a_client_closes(recorder: Recorder, port: int) -> None:
    async with client(port) as websocket:
        await websocket.close(3_456, "bye")
        assert (websocket.close_code, websocket.close_reason) == (3_456, "")
    assert await recorder.ended() == (True, 3_456)
    assert recorder.connections[0].session.phase == CLOSED


async def test_the_server_closes(recorder: Recorder, port: int) -> None:
    async with client(port) as websocket:
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        connection.session.send(b"last words")
        connection.close(*Closes.TOKEN_EXPIRED[:2])
        assert (connection.is_open(), connection.session.phase) == (False, CLOSING)
        connection.session.send(b"too late")
        connection.close(*Closes.INTERNAL[:2])
        assert await websocket.recv() == "last words"
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert (websocket.close_code, websocket.close_reason) == Closes.TOKEN_EXPIRED[:2]
    assert await recorder.ended() == (True, Closes.TOKEN_EXPIRED.code)


async def test_the_server_ends_tcp_first(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await peer.send(masked(CLOSE, struct.pack("!H", 1001)))
        assert list(frames(await peer.read_to_end())) == [(CLOSE, struct.pack("!H", 1001))]
    assert await recorder.ended() == (True, 1001)


async def test_a_peer_that_does_not_answer_our_close_is_dropped(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        started = asyncio.get_running_loop().time()
        recorder.connections[0].close(*Closes.DRAIN[:2])
        await peer.send(masked(TEXT, b"still talking"))
        assert [opcode for opcode, _ in frames(await peer.read_to_end())] == [CLOSE]
        took_ms = (asyncio.get_running_loop().time() - started) * 1_000
        assert limits.CLOSE_DEADLINE_MS - 100 < took_ms < limits.CLOSE_DEADLINE_MS + 2_000
    assert await recorder.ended() == (False, Closes.DRAIN.code)
    assert recorder.texts == []


async def test_a_vanished_client(recorder: Recorder, port: int) -> None:
    async with raw(port):
        await recorder.until(lambda: recorder.connections)
    assert await recorder.ended() == (False, 0)
    connection = recorder.connections[0]
    assert (connection.is_open(), connection.session.phase) == (False, CLOSED)
    connection.session.send(b"nobody reads this")
    connection.flush()
    connection.close(1012, "")
    connection.abort()
    assert len(recorder.ends) == 1


async def test_abort(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        connection.abort()
        connection.abort()
        assert connection.is_open() is False
        connection.session.send(b"not sent")
        connection.flush()
        assert connection.session.pending() == 0
        assert await peer.read_to_end() == b""
    assert await recorder.ended() == (False, 0)


@pytest.mark.parametrize(
    ("sent", "close"),
    [
        (masked(0x2, b"binary"), Closes.UNSUPPORTED_DATA),
        (masked(TEXT, b"\xff"), Closes.INVALID_TEXT),
        (masked(0x0, b"stray"), Closes.PROTOCOL_ERROR),
        (masked(TEXT | 0x40, b"rsv1"), Closes.PROTOCOL_ERROR),
        (masked(TEXT, b"x" * 9_000, fin=False) + masked(0x0, b"x" * 9_000), Closes.TOO_BIG),
    ],
    ids=["binary", "utf8", "stray", "rsv", "size"],
)
async def test_faults_the_session_finds(recorder: Recorder, port: int, sent: bytes, close: Any) -> None:
    async with raw(port) as peer:
        await peer.send(sent + masked(CLOSE, struct.pack("!H", close.code)))
        payload = struct.pack("!H", close.code) + close.reason.encode()
        assert list(frames(await peer.read_to_end())) == [(CLOSE, payload)]
    assert await recorder.ended() == (True, close.code)
    assert recorder.texts == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x02{}", 1002),  # not masked
        (masked(0x3, b""), 1002),
        (masked(0x9, b"", fin=False), 1002),
        (masked(0x9, b"x" * 126), 1002),
        (masked(TEXT, b"x" * (limits.FRAME_BYTES_MAX + 1)), 1009),
        (masked(CLOSE, struct.pack("!H", 1005)), 1002),
    ],
    ids=["unmasked", "opcode", "fragmented ping", "long ping", "size", "close code"],
)
async def test_faults_of_a_frame_header(recorder: Recorder, port: int, sent: bytes, code: int) -> None:
    """The close frame is the last word, and the policy learns the code."""
    async with raw(port) as peer:
        await peer.send(masked(TEXT, b"fine"))
        await recorder.until(lambda: recorder.texts)
        await peer.read(6)
        await peer.send(sent)
        while recorder.connections[0].is_open():  # noqa: ASYNC110 - picows tells nobody
            await asyncio.sleep(0.001)
        recorder.connections[0].session.send(b"after the close")
        recorder.connections[0].flush()
        ((opcode, payload),) = frames(await peer.read_to_end())
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))
    clean, told = await recorder.ended()
    # A peer that sent a close frame, if a bad one, has shaken hands; picows takes note of good ones only.
    assert (clean, told) in {(False, code), (sent[0] & 0x0F == CLOSE, code)}


async def test_a_ping_flood(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await peer.send(masked(0x9, b"x" * 125) * 1_000)
        await peer.send(masked(CLOSE, b""))
        heard = list(frames(await peer.read_to_end()))
        assert heard[:-1] == [(PONG, b"x" * 125)] * (len(heard) - 1)
        assert len(heard) - 1 <= limits.CLIENT_PINGS_BURST_MAX + limits.CLIENT_PINGS_PER_S_MAX
        assert heard[-1][1][:2] == struct.pack("!H", Closes.TOO_FAST.code)
    assert await recorder.ended() == (True, Closes.TOO_FAST.code)


def congest(connection: Connection) -> int:
    """Write notifications until the socket's buffer is above its high-water mark; how many it took."""
    seq = 0
    while not connection.congested():
        seq += 1
        assert connection.session.offer(0, seq, seq - 1, ident(seq), b"x" * 60_000) == 0
        connection.flush()
    return seq


async def test_a_slow_reader_waits_in_the_log_and_catches_up(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        count = congest(connection)
        session = connection.session
        assert (session.blocked, session.window_free()) == (True, 0)
        assert session.offer(0, count + 1, count, ident(count + 1), b"later") == 2
        waiting = session.pending()
        session.send(b"control")
        connection.flush()
        assert session.pending() == waiting + 2 + len(b"control")
        data = await peer.read(count * (10 + 60_000 - 6) + 2 + len(b"control"))
        await recorder.until(lambda: recorder.writable_count)
        heard = [len(payload) for _, payload in frames(data)]
        assert sorted(heard) == [len(b"control")] + [60_000] * count
        assert heard[-1] == 60_000, "control overtakes what waits"
        assert (connection.congested(), session.blocked, session.wanted()) == (False, False, True)
        assert recorder.writable_count == 1
        assert session.fill(0, count + 1, count, ident(count + 1), b"later") is True
        connection.flush()
        assert list(frames(await peer.read(7))) == [(TEXT, b"later")]


async def test_a_reader_that_never_reads_is_dropped(recorder: Recorder, port: int) -> None:
    async with raw(port):
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        congest(connection)
        connection.session.send(b"x" * (limits.WRITE_BUFFER_BYTES_MAX - 4))  # and 4 of header
        connection.flush()
        assert connection.is_open()
        connection.session.send(b"x")
        connection.flush()
        assert connection.is_open() is False
        assert await recorder.ended() == (False, Closes.TOO_SLOW.code)


async def test_high_overtakes_what_a_full_socket_did_not_take(recorder: Recorder, port: int) -> None:
    """And an ack up to it acknowledges what came before it on the wire, no more."""
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        connection, number, data = recorder.connections[0], 0, b""
        session = connection.session

        def low(size: int) -> None:
            nonlocal number
            number += 1
            assert session.offer(Lane.DIRECT_LOW, number, number - 1, ident(number), b"L" * size) == 0
            connection.flush()

        session.set_at(Lane.DIRECT_LOW, 0)
        while session.pending() == 0:
            low(60_000)
        for _ in range(5):
            low(100)
        assert session.offer(Lane.DIRECT_HIGH, 1, 0, ident(1_000), b"HIGH") == 0
        connection.flush()
        data = await peer.read((number - 5) * 60_004 + 5 * 102 + 2 + 4)
        heard = [payload for _, payload in frames(data)]
        at = heard.index(b"HIGH")
        assert number - 6 <= at <= number - 5  # at most one frame was on the wire in part
        assert [len(payload) for payload in heard[-5:]] == [100] * 5
        found = session.ack_upto(ident(1_000))
        assert found is not None
        assert [one[0] for one in found] == [*map(ident, range(1, at + 1)), ident(1_000)]
        assert session.unacked() == number - at


async def test_a_close_waits_behind_what_a_slow_reader_has_not_taken(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        count = congest(connection)
        connection.close(*Closes.DRAIN[:2])
        assert (connection.is_open(), connection.session.phase) == (False, CLOSING)
        data = await peer.read(count * 60_004 + 2 + 2 + len(Closes.DRAIN.reason))
        assert list(frames(data))[-1] == (CLOSE, b"\x03\xf4" + Closes.DRAIN.reason.encode())
        await peer.send(masked(CLOSE, b"\x03\xf4"))
        assert await recorder.ended() == (True, Closes.DRAIN.code)


async def test_a_policy_that_fails_ends_its_connection_only(recorder: Recorder, port: int) -> None:
    def fail(connection: Connection, text: bytes) -> None:
        raise RuntimeError("a bug of ours")

    async with client(port) as healthy:
        await recorder.until(lambda: recorder.connections)
        async with client(port) as websocket:
            recorder.answer = fail
            await websocket.send("{}")
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == Closes.INTERNAL.code
        recorder.answer = lambda connection, text: connection.session.send(text)
        await healthy.send("{}")
        assert await healthy.recv() == "{}"
        assert await recorder.ended() == (False, 1011)


async def test_connections_are_freed(recorder: Recorder, port: int) -> None:
    async with client(port) as websocket:
        await websocket.send("{}")
        await websocket.recv()
    await recorder.ended()
    await asyncio.sleep(0.05)
    references = sys.getrefcount(recorder.connections[0])
    assert references == 2  # the list's, and the argument


async def test_a_connection_starts_as_the_door_left_it(recorder: Recorder, port: int) -> None:
    async with client(port):
        await recorder.until(lambda: recorder.connections)
        connection = recorder.connections[0]
        assert (connection.peer, connection.deadline_ms, connection.state) == ("127.0.0.1", 0, None)
        connection.peer, connection.deadline_ms, connection.state = "203.0.113.9", 77, "mine"
        assert (connection.peer, connection.deadline_ms, connection.state) == ("203.0.113.9", 77, "mine")
    await recorder.ended()
    assert connection.is_open() is False
    connection.flush()
    connection.abort()
    connection.close(1012, "service restart")
    assert connection.peer == "203.0.113.9"


async def test_aiohttp_is_served(recorder: Recorder, port: int) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{port}/", compress=0) as websocket,
    ):
        await websocket.send_str("ü" * 5_000)
        assert (await websocket.receive()).data == "ü" * 5_000
        await websocket.ping(b"x")
        await websocket.send_str("{}")
        assert (await websocket.receive()).data == "{}"
    assert await recorder.ended() == (True, 1000)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
async def test_frames_in_pieces(recorder: Recorder, port: int, step: int) -> None:
    data = b"".join([masked(TEXT, b"x" * 130), masked(0x9, b"p"), masked(TEXT, b""), masked(TEXT, b"\xc3\xbc")])
    async with raw(port) as peer:
        for first in range(0, len(data), step):
            await peer.send(data[first : first + step])
            await asyncio.sleep(0)
        assert list(frames(await peer.read(134 + 3 + 2 + 4))) == [
            (TEXT, b"x" * 130), (PONG, b"p"), (TEXT, b""), (TEXT, b"\xc3\xbc"),
        ]  # fmt: skip


async def test_a_reset_in_the_middle_of_a_frame(recorder: Recorder, port: int) -> None:
    async with raw(port) as peer:
        await peer.send(masked(TEXT, b"x" * 9_000)[:4_000])
        await recorder.until(lambda: recorder.connections)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert await recorder.ended() == (False, 0)
    assert recorder.texts == []


async def test_abort_within_a_callback(recorder: Recorder, port: int) -> None:
    """What the client sent behind it is not heard, and the end is told after the call."""

    def drop(connection: Connection, text: bytes) -> None:
        connection.abort()
        assert recorder.ends == []

    recorder.answer = drop
    async with raw(port) as peer:
        await peer.send(masked(TEXT, b"1") + masked(TEXT, b"2"))
        assert await peer.read_to_end() == b""
    assert await recorder.ended() == (False, 0)
    assert recorder.texts == [b"1"]
