"""Many sockets beside the devices of the ledger: bench's native load generator, with users of the first tenant.

They connect without a cursor, answer pings, get nothing, and come again 1 to 2 s after they lost their socket.
"""

import asyncio
import base64
import contextlib
import os
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from bench.load import Load
from notification.frames import SUBPROTOCOL
from notification.settings import Settings
from tests.faults.devices import token_of
from tests.faults.ledger import DeviceName

_LENGTH: Final = struct.Struct("!H")
_IN_FLIGHT: Final = 128
_BACK_S_MAX: Final = 120.0
_LOOK_S: Final = 0.1


@contextlib.asynccontextmanager
async def crowd(settings: Settings, tenant: str, count: int, folder: Path) -> AsyncIterator[Load]:
    """`count` users of a tenant, connected to the gateway itself: no process has room for both ends of them."""
    heads = folder / "heads"
    with heads.open("wb") as file:
        for number in range(count):
            head = _head(settings, DeviceName((tenant, f"crowd-{number}"), "d"))
            file.write(_LENGTH.pack(len(head)) + head)
    async with Load(settings.gateway_port, heads, core=None, spin=False) as load:
        await load.connect_all(count, _IN_FLIGHT, again=True)
        yield load


async def all_back(load: Load, count: int) -> float:
    """Wait until sockets were found lost and all are back; how many seconds that took. Raises TimeoutError."""
    began_s = time.monotonic()
    async with asyncio.timeout(_BACK_S_MAX):
        while True:
            stats = await load.stats()
            if stats["drops"] and stats["live"] == count:
                return time.monotonic() - began_s
            await asyncio.sleep(_LOOK_S)


def _head(settings: Settings, name: DeviceName) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws/connect?device={name.device} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {token_of(settings, name)}\r\n\r\n"
    ).encode("ascii")
