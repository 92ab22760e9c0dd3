"""herald.client against a scripted server of the `websockets` library: what a real gateway may do, and worse."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from herald import client as module
from herald.client import HeraldClient
from herald.client_errors import ClientError, NotConnected, Refused, SessionEnded, Unreachable
from notification.frames import Counters, Cursor, StateFrame, cursor_from_text

Script = Callable[["Gateway", ServerConnection], Awaitable[None]]


@pytest.fixture(autouse=True)
def _fast_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_BASE_S", 0.01)


def jwt(lifetime_s: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + lifetime_s}).encode()).rstrip(b"=").decode()
    return f"e30.{body}.sig"


async def token() -> str:
    return jwt(600)


def n(seq: int, ident: str | None = None, lane: str = "direct.high") -> dict[str, Any]:
    return {
        "t": "n", "lane": lane, "seq": seq, "id": ident or f"id-{lane}-{seq}", "type": "service",
        "priority": "high", "sent_at": 1, "expires_at": 2, "p": {"title": f"T{seq}", "body": "B"},
    }  # fmt: skip


class Gateway:
    """Plays one script per connection, the last one again and again; remembers what clients sent."""

    def __init__(self, *scripts: Script, refuse: tuple[Response, ...] = ()) -> None:
        self._scripts = scripts
        self._refuse = list(refuse)
        self._server: Server | None = None
        self.requests: list[Request] = []
        self.frames: list[dict[str, Any]] = []
        self.codes: list[int | None] = []

    async def __aenter__(self) -> "Gateway":
        self._server = await serve(
            self._play, "127.0.0.1", 0, subprotocols=["herald.v1"], process_request=self._door
        )
        self.url = f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/ws/connect"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _door(self, _: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return self._refuse.pop(0) if self._refuse else None

    async def _play(self, socket: ServerConnection) -> None:
        number = len(self.codes)
        self.codes.append(None)
        with contextlib.suppress(Exception):
            await self._scripts[min(number, len(self._scripts) - 1)](self, socket)
        await socket.close()
        self.codes[number] = socket.close_code

    def query(self, number: int) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.requests[number].path).query).items()}

    async def read(self, socket: ServerConnection) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await socket.recv())
        self.frames.append(frame)
        return frame

    async def greet(self, socket: ServerConnection, recovered: bool | str = True, epoch: int = 7) -> None:
        await socket.send(json.dumps({
            "t": "welcome", "session": "s", "client_id": "d.u.v", "heartbeat_s": 30, "epoch": epoch,
            "recovered": recovered,
        }))  # fmt: skip

    async def resumed(self, socket: ServerConnection, at: dict[str, int], recovered: bool = True) -> None:
        frame = {"t": "resumed", "at": at, "counters": {"unread": 1, "rev": 5}, "recovered": recovered}
        await socket.send(json.dumps(frame))

    async def forever(self, socket: ServerConnection) -> None:
        while True:
            await self.read(socket)


def refusal(status: int, code: str, **headers: str) -> Response:
    body = json.dumps({"error": code}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, HTTPStatus(status).phrase, Headers({"Content-Length": str(len(body)), **named}), body)


async def take(client: HeraldClient, count: int) -> list[Any]:
    taken: list[Any] = []
    async with asyncio.timeout(20):
        async for frame in client:
            taken.append(frame)
            if len(taken) == count:
                break
    return taken


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def owed_two(gateway: Gateway, socket: ServerConnection) -> None:
    await gateway.greet(socket)
    await socket.send(json.dumps(n(4)))
    await socket.send(json.dumps(n(6)))
    await gateway.resumed(socket, {"direct.high": 8, "direct.low": 3})
    await gateway.forever(socket)


async def test_it_says_who_it_is_and_never_in_the_url() -> None:
    async with Gateway(owed_two) as gateway, HeraldClient(gateway.url, token, device="phone") as client:
        assert client.welcome is not None
        assert client.welcome.client_id == "d.u.v"
        (request,) = gateway.requests
        assert gateway.query(0) == {"device": "phone"}
        assert request.headers["Sec-WebSocket-Protocol"] == "herald.v1"
        assert request.headers["Authorization"].startswith("Bearer e30.")
        assert "e30." not in request.path


async def test_the_cursor_follows_the_acks_not_the_arrivals() -> None:
    async with Gateway(owed_two) as gateway, HeraldClient(gateway.url, token) as client:
        one, two = await take(client, 2)
        await asyncio.wait_for(client.wait_resumed(), 20)
        assert client.cursor == Cursor(7, {"direct.high": 3, "direct.low": 3})
        await client.ack(two)
        assert client.cursor == Cursor(7, {"direct.high": 3, "direct.low": 3})
        await client.ack(one)
        assert client.cursor == Cursor(7, {"direct.high": 8, "direct.low": 3})
        await until(lambda: len(gateway.frames) == 2)
        assert [frame["ids"] for frame in gateway.frames] == [[two.id], [one.id]]
        assert client.counters is not None
        assert client.counters.unread == 1


async def test_what_is_recalled_before_the_app_took_it_is_acked_and_never_yielded() -> None:
    async def recall(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await gateway.resumed(socket, {"direct.high": 0})
        await socket.send(json.dumps(n(1)))
        ids = [n(1)["id"], n(2)["id"]]  # the second one is overtaken by its recall
        await socket.send(json.dumps({"t": "state", "ids": ids, "to": "recalled", "rev": 6, "unread": 0}))
        await socket.send(json.dumps(n(2)))
        await socket.send(json.dumps(n(3)))
        await gateway.forever(socket)

    states: list[StateFrame] = []
    async with Gateway(recall) as gateway, HeraldClient(gateway.url, token, on_state=states.append) as client:
        await until(
            lambda: bool(states) and client.cursor == Cursor(7, {"direct.high": 0}) and len(gateway.frames) == 1
        )
        (three,) = await take(client, 1)
        assert three.seq == 3
        await client.ack(three)
        await until(lambda: len(gateway.frames) == 3)
        assert {ident for frame in gateway.frames for ident in frame["ids"]} == {n(seq)["id"] for seq in (1, 2, 3)}
        assert (states[0].to, client.counters) == ("recalled", Counters(0, 6))
        assert client.cursor == Cursor(7, {"direct.high": 3})


async def test_a_lost_connection_resumes_from_the_cursor_and_yields_nothing_twice() -> None:
    async def lose(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps(n(1)))
        await socket.send(json.dumps(n(2)))
        await gateway.read(socket)  # the ack of one of them
        socket.transport.abort()

    async def again(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        for seq in (1, 2, 3):
            await socket.send(json.dumps(n(seq)))
        await gateway.resumed(socket, {"direct.high": 3})
        await gateway.forever(socket)

    async with Gateway(lose, again) as gateway, HeraldClient(gateway.url, token) as client:
        one, two = await take(client, 2)
        await client.ack(two)
        (three,) = await take(client, 1)
        assert three.seq == 3
        assert cursor_from_text(gateway.query(1)["cursor"]) == Cursor(7, {"direct.high": 0})
        await until(lambda: len(gateway.frames) == 2)
        assert gateway.frames[1] == {"t": "ack", "ids": [two.id], "upto": None}  # acked again, unasked
        await client.ack(one, three)
        await until(lambda: len(gateway.frames) == 3)
        assert gateway.frames[2]["ids"] == [one.id, three.id]
        assert client.cursor == Cursor(7, {"direct.high": 3})


async def test_an_ack_while_disconnected_is_kept_for_the_repeat() -> None:
    gone = asyncio.Event()

    async def lose(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps(n(1)))
        await gone.wait()
        socket.transport.abort()

    async def again(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps(n(1)))
        await gateway.forever(socket)

    acked = asyncio.Event()

    async def held_token() -> str:
        if gone.is_set():  # or the reconnect might be over before anybody has seen it disconnected
            await acked.wait()
        return await token()

    async with Gateway(lose, again) as gateway, HeraldClient(gateway.url, held_token) as client:
        (one,) = await take(client, 1)
        gone.set()
        await until(lambda: client._socket is None)
        await client.ack(one)
        acked.set()
        await until(lambda: bool(gateway.frames))
        assert gateway.frames[0]["ids"] == [one.id]


async def test_a_snapshot_replaces_the_cursor() -> None:
    async def snapshot(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket, recovered=False, epoch=9)
        await socket.send(json.dumps(n(2)))
        await gateway.resumed(socket, {"direct.high": 2}, recovered=False)
        await gateway.forever(socket)

    old = Cursor(7, {"direct.high": 900, "direct.low": 50})
    async with Gateway(snapshot) as gateway, HeraldClient(gateway.url, token, cursor=old) as client:
        (two,) = await take(client, 1)
        await client.ack(two)
        await asyncio.wait_for(client.wait_resumed(), 20)
        assert client.cursor == Cursor(9, {"direct.high": 2})
        assert cursor_from_text(gateway.query(0)["cursor"]) == old


async def test_a_pending_resume_keeps_the_cursor_until_it_is_settled() -> None:
    settle = asyncio.Event()

    async def pending(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket, recovered="pending")
        await settle.wait()
        await gateway.resumed(socket, {"direct.high": 2}, recovered=False)
        await gateway.forever(socket)

    old = Cursor(7, {"direct.high": 900})
    async with Gateway(pending) as gateway, HeraldClient(gateway.url, token, cursor=old) as client:
        assert client.cursor == old
        settle.set()
        await asyncio.wait_for(client.wait_resumed(), 20)
        assert client.cursor == Cursor(7, {"direct.high": 2})


async def test_goaway_moves_to_another_connection_after_its_delay() -> None:
    async def leave(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps({"t": "goaway", "delay_ms": 200}))
        await gateway.forever(socket)

    async def stay(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps(n(1)))
        await gateway.forever(socket)

    async with Gateway(leave, stay) as gateway, HeraldClient(gateway.url, token) as client:
        began = time.monotonic()
        await take(client, 1)
        assert 0.15 < time.monotonic() - began < 10
        assert gateway.codes[0] == 1000


@pytest.mark.parametrize("code", [4403, 4409, 4400, 1009])
async def test_a_final_close_ends_the_iteration(code: int) -> None:
    async def end(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.close(code, "because")

    async with Gateway(end) as gateway, HeraldClient(gateway.url, token) as client:
        with pytest.raises(SessionEnded, match=f"{code} because") as caught:
            await take(client, 1)
        assert caught.value.code == code
        await asyncio.sleep(0.1)
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("code", [4401, 4408, 4410, 4429, 1011, 1012, 1001])
async def test_other_closes_are_reopened_with_a_fresh_token(code: int) -> None:
    asked = 0

    async def counting() -> str:
        nonlocal asked
        asked += 1
        return jwt(600)

    async def end(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.close(code, "later")

    async def stay(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send(json.dumps(n(1)))
        await gateway.forever(socket)

    async with Gateway(end, stay) as gateway, HeraldClient(gateway.url, counting) as client:
        await take(client, 1)
    assert asked == 2


async def test_a_refusal_at_the_door_is_typed() -> None:
    async with Gateway(owed_two, refuse=(refusal(401, "token"),)) as gateway:
        with pytest.raises(Refused, match="HTTP 401") as caught:
            async with HeraldClient(gateway.url, token):
                pass
        assert (caught.value.status, caught.value.code) == (401, "token")


async def test_retry_after_is_obeyed() -> None:
    async with Gateway(owed_two, refuse=(refusal(503, "draining", Retry_After="1"),)) as gateway:
        began = time.monotonic()
        async with HeraldClient(gateway.url, token):
            assert 0.95 < time.monotonic() - began < 10
        assert len(gateway.requests) == 2


async def test_nobody_there_is_named_with_its_address() -> None:
    async with Gateway(owed_two) as gateway:
        url = gateway.url
    with pytest.raises(Unreachable, match="does not answer") as caught:
        async with HeraldClient(url, token, open_timeout_s=0.3):
            pass
    assert url in str(caught.value)
    with pytest.raises(Unreachable, match="not a ws:// or wss:// address"):
        async with HeraldClient("http://127.0.0.1/ws/connect", token):
            pass


@pytest.mark.parametrize("reads", [False, True])
async def test_a_connection_closed_during_the_handshake_is_tried_again(reads: bool) -> None:
    """Before its request is read (a reset) or after it (an orderly end): neither ends the client."""

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        if closed < 3:
            closed += 1
            if reads:
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    closed = 0
    async with Gateway(owed_two) as gateway:
        port = urlsplit(gateway.url).port
        server = await asyncio.start_server(door, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/connect"
        async with HeraldClient(url, token, open_timeout_s=30) as client:
            assert [frame.seq for frame in await take(client, 2)] == [4, 6]
        server.close()
    assert closed == 3


async def test_nobody_answering_the_handshake_is_named() -> None:
    async def door(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(door, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/connect"
    with pytest.raises(Unreachable, match="does not answer"):
        async with HeraldClient(url, token, open_timeout_s=0.5):
            pass
    server.close()


async def test_a_server_without_our_subprotocol_is_refused() -> None:
    async def play(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(play, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(Refused, match="subprotocol"):
            async with HeraldClient(f"ws://127.0.0.1:{port}/ws/connect", token):
                pass


async def test_pages_states_and_counters() -> None:
    async def inbox(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        while True:
            frame = await gateway.read(socket)
            if frame["t"] == "page":
                page = {"t": "page", "items": [{"n": n(1), "read": True}], "counters": {"unread": 0, "rev": 9}}
                first = sum(said["t"] == "page" for said in gateway.frames) == 1
                busy = {"t": "error", "code": "busy", "retry_ms": 1}
                await socket.send(json.dumps(busy if first else page))
            elif frame["t"] == "state":
                state = {"t": "state", "ids": frame["ids"], "to": frame["to"], "rev": 10, "unread": 0}
                await socket.send(json.dumps(state))
                await socket.send(json.dumps({"t": "counters", "unread": 99, "rev": 2}))
                await socket.send(json.dumps({"t": "counters", "unread": 4, "rev": 10}))
                await socket.send(json.dumps({"t": "pong"}))

    heard: list[StateFrame] = []
    async with Gateway(inbox) as gateway, HeraldClient(gateway.url, token, on_state=heard.append) as client:
        page = await client.page(limit=5)
        assert page.items[0].read
        await client.set_state(["a"], "read")
        await client.page(limit=5)
        assert (heard[0].ids, heard[0].to) == (["a"], "read")
        assert client.counters is not None
        # Neither older counters nor, of one rev, those from before an expiry replace newer ones.
        assert (client.counters.unread, client.counters.rev) == (0, 10)


async def test_a_page_cut_off_is_told() -> None:
    async def cut(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await gateway.read(socket)
        socket.transport.abort()

    async with Gateway(cut, owed_two) as gateway, HeraldClient(gateway.url, token) as client:
        with pytest.raises(NotConnected):
            await client.page()


async def test_the_token_is_renewed_before_it_expires() -> None:
    async def short() -> str:
        return jwt(2)

    async def stay(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await gateway.forever(socket)

    async with Gateway(stay) as gateway, HeraldClient(gateway.url, short):
        await until(lambda: bool(gateway.frames))
        assert gateway.frames[0]["t"] == "reauth"
        assert len(gateway.requests) == 1


async def test_a_failing_token_provider_is_not_hidden() -> None:
    async def broken() -> str:
        raise OSError("identity provider is down")

    async with Gateway(owed_two) as gateway:
        with pytest.raises(ClientError, match="OSError: identity provider is down"):
            async with HeraldClient(gateway.url, broken):
                pass


async def test_frames_of_another_protocol_end_the_session() -> None:
    async def strange(gateway: Gateway, socket: ServerConnection) -> None:
        await gateway.greet(socket)
        await socket.send("[1,2]")
        await gateway.forever(socket)

    async with Gateway(strange) as gateway, HeraldClient(gateway.url, token) as client:
        with pytest.raises(SessionEnded, match=r"not of herald\.v1"):
            await take(client, 1)


async def test_close_ends_the_iteration_quietly() -> None:
    async with Gateway(owed_two) as gateway:
        client = HeraldClient(gateway.url, token)
        async with client:
            await take(client, 2)
        assert [frame async for frame in client] == []
        await until(lambda: gateway.codes[0] == 1000)
