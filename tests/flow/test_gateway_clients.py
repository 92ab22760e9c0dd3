"""Clients that others wrote, over each carrier and TLS: connect with a token, get a notification, ack, see a close.

websockets is the client of every other flow test; Chromium is in tests/browser.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import websocket

from notification.codes import Closes
from notification.frames import SUBPROTOCOL
from tests.asyncapi import check_heard
from tests.flow.world import ORIGIN, World, authority, mint, until
from tests.quality.tree import ROOT
from tests.unit.gateway._fast.carriers import masked
from tests.unit.gateway._fast.sessions import CLOSE, PING, TEXT, frames

DEADLINE_S = 30  # of what takes a foreign process on a busy machine
CLIENTS = ROOT / "tests" / "clients"


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    world = World(carrier)
    await world.start()
    world.log.add("ann")
    yield world
    await world.close()


async def suspend_once_acked(world: World) -> None:
    """Close as the server: 4403."""
    await until(lambda: len(world.acked()) == 1, DEADLINE_S)
    world.tenants = [world.tenant("acme", status="suspended")]
    world.version += 1
    world.gateway.edge.refresh()


def use_websocket_client(world: World, token: str) -> tuple[list[dict[str, Any]], int, str]:
    """websocket-client blocks: it runs in a thread. (frames, close code, reason)."""
    socket = websocket.create_connection(
        world.url(device="sync"), timeout=DEADLINE_S, header={"Authorization": f"Bearer {token}"},
        subprotocols=[SUBPROTOCOL], suppress_origin=True,
        sslopt={"ca_certs": str(authority().ca)} if world.ssl else None,
    )  # fmt: skip
    assert socket.getsubprotocol() == SUBPROTOCOL
    heard = []
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            socket.shutdown()
            return heard, int.from_bytes(data[:2], "big"), data[2:].decode()
        heard.append(json.loads(data))
        if heard[-1]["t"] == "n":
            socket.send(json.dumps({"t": "ack", "ids": [heard[-1]["id"]]}))


async def test_websocket_client(world: World) -> None:
    closing = asyncio.create_task(suspend_once_acked(world))
    heard, code, reason = await asyncio.to_thread(use_websocket_client, world, mint())
    await closing
    assert [check_heard(frame) for frame in heard] == ["Welcome", "Notification", "Resumed"]
    assert (code, reason) == Closes.REVOKED[:2]


async def test_websocket_client_sees_the_status(world: World) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        await asyncio.to_thread(use_websocket_client, world, "no.good.token")
    assert caught.value.status_code == 401


async def test_aiohttp(world: World) -> None:
    closing = asyncio.create_task(suspend_once_acked(world))
    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {mint()}"}) as http,
        http.ws_connect(world.url(), protocols=[SUBPROTOCOL], ssl=world.ssl or True) as socket,
    ):
        assert socket.protocol == SUBPROTOCOL
        kinds = []
        async for message in socket:
            frame = message.json()
            kinds.append(check_heard(frame))
            if frame["t"] == "n":
                await socket.send_json({"t": "ack", "ids": [frame["id"]]})
        await closing
        assert kinds == ["Welcome", "Notification", "Resumed"]
        assert socket.close_code == Closes.REVOKED.code


async def run_ws(world: World, token: str) -> list[dict[str, Any]]:
    """What npm's ws says until it ends."""
    assert shutil.which("node"), "node is missing: apt-get install nodejs npm"
    assert (CLIENTS / "node_modules" / "ws").exists(), "npm's ws is missing: make node-clients"
    process = await asyncio.create_subprocess_exec(
        "node", str(CLIENTS / "ws_client.js"), world.url(), token, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(authority().ca)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return [json.loads(line) for line in output.splitlines()]


async def test_ws_of_npm(world: World) -> None:
    closing = asyncio.create_task(suspend_once_acked(world))
    first, *said, last = await run_ws(world, mint())
    await closing
    assert first == {"open": SUBPROTOCOL}
    assert [check_heard(line["frame"]) for line in said] == ["Welcome", "Notification", "Resumed"]
    assert not any(line["isBinary"] for line in said)
    assert last == {"close": Closes.REVOKED.code, "reason": Closes.REVOKED.reason}


async def test_ws_of_npm_sees_the_status(world: World) -> None:
    error, end = await run_ws(world, "no.good.token")
    assert "401" in error["error"]
    assert end["close"] == 1006


def firefox(port: int, token: str) -> bytes:
    """The request of Firefox 128, its headers in its order and spelling."""
    return (
        f"GET /ws/connect?device=fox HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
        "Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
        f"Sec-WebSocket-Version: 13\r\nOrigin: {ORIGIN}\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}, bearer.{token}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nDNT: 1\r\nConnection: keep-alive, Upgrade\r\n"
        "Cookie: theme=dark; session=none-of-ours\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\n"
        "Sec-Fetch-Site: cross-site\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"
    ).encode()


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(opcode, payload) of the server's next frame; PINGs, which come when their time has come, are passed over."""
    while True:
        head = await reader.readexactly(2)
        size = await reader.readexactly(2) if head[1] == 126 else b""
        body = await reader.readexactly(int.from_bytes(size, "big") if size else head[1])
        ((opcode, payload),) = frames(head + size + body)
        if opcode != PING:
            return opcode, payload


async def test_firefox(world: World) -> None:
    reader, writer = await world.open()
    writer.write(firefox(world.port, mint()))
    async with asyncio.timeout(DEADLINE_S):
        top = await reader.readuntil(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 101 ")
        assert f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n".encode() in top
        assert b"extensions" not in top.lower()  # permessage-deflate was offered, and is not taken
        told: list[dict[str, Any]] = []
        for _ in range(3):
            opcode, payload = await next_frame(reader)
            assert opcode == TEXT
            told.append(json.loads(payload))
        assert [check_heard(frame) for frame in told] == ["Welcome", "Notification", "Resumed"]
        assert told[0]["client_id"].endswith(".fox")
        writer.write(masked(TEXT, json.dumps({"t": "ack", "ids": [told[1]["id"]]}).encode()))
        await suspend_once_acked(world)
        end = await next_frame(reader)
        assert end == (CLOSE, Closes.REVOKED.code.to_bytes(2, "big") + Closes.REVOKED.reason.encode())
        writer.write(masked(CLOSE, end[1]))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
