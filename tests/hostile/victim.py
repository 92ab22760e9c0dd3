"""A real gateway process on a NATS and a Valkey of its own, watched from outside: memory, CPU time, descriptors."""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from devstack.ports import free_ports
from devstack.processes import HeraldProcess
from devstack.servers import Nats, Valkey
from notification import batch, messages, names
from notification.bus import NatsBus
from notification.codes import ReceiptCode
from notification.messages import FillItem
from notification.settings import Settings
from tests.flow.world import ORIGIN, App, World, mint, now_ms

READY_S: Final = 30
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Victim:
    """The process and everything around it; a log in this process answers for role inbox."""

    def __init__(
        self, folder: Path, carrier: str, limits: Mapping[str, int] | None = None, **settings: int
    ) -> None:
        """`limits` replaces some of notification.limits in the process; `settings` are of the configuration."""
        ports = free_ports(3)
        self.settings = Settings(
            nats_port=ports[0], redis_port=ports[1], gateway_port=ports[2], gateway_carrier=carrier,
            data_dir=str(folder), **settings,
        )  # fmt: skip
        self.port = ports[2]
        self.world = World(carrier)
        self.edge_requests = 0
        self._strangers = 0
        replaced = [f"{name}={value}" for name, value in (limits or {}).items()]
        self._process = HeraldProcess(self.settings, "gateway", ["tests.hostile.serve", *replaced])
        self._running = contextlib.AsyncExitStack()
        self._bus: NatsBus
        self._gateway_id = ""

    async def start(self) -> None:
        for server in (Nats(self.settings), Valkey(self.settings)):
            self._running.push_async_callback(server.stop)
            await server.start()
        self._bus = await NatsBus.connect(self.settings.nats_url, "inbox")
        self._running.push_async_callback(self._bus.close)
        for subject in (names.INBOX_EDGE, names.INBOX_RESUME, names.INBOX_STATE, names.INBOX_PAGE):
            await self._bus.serve(subject, self._answer, queue=names.INBOX_QUEUE)
        self._running.push_async_callback(self._process.stop)
        await self._process.start()
        self._gateway_id = await self._first_beat()
        await self._until_it_knows_the_tenant()

    async def stop(self) -> None:
        await self._running.aclose()

    async def _answer(self, subject: str, payload: bytes) -> bytes:
        self.edge_requests += subject == names.INBOX_EDGE
        return await self.world._answer(subject, payload)

    async def _first_beat(self) -> str:
        """The id of the only gateway process."""
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def beat(subject: str, payload: bytes) -> None:
            heard.put_nowait(messages.decode_beat(payload).gateway_id)

        await self._bus.serve(names.STATUS_SUBJECT, beat)
        async with asyncio.timeout(READY_S):
            return await heard.get()

    async def _until_it_knows_the_tenant(self) -> None:
        """Its first edge snapshot comes after it serves: 503 until then."""
        async with asyncio.timeout(READY_S):
            while True:
                with contextlib.suppress(InvalidStatus):
                    async with self.client(self.stranger()):
                        return
                await asyncio.sleep(0.05)

    # --- clients and their notifications --------------------------------------
    def stranger(self) -> str:
        """A user nobody had before: no lanes, no devices, no presence."""
        self._strangers += 1
        return f"user{self._strangers}"

    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/connect"

    @contextlib.asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[App]:
        """A well-behaved client that has read its welcome."""
        headers = {"Authorization": f"Bearer {mint(user)}"}
        async with connect(
            self.url(), additional_headers=headers, compression=None, origin=ORIGIN, open_timeout=READY_S,
            ping_interval=None,
        ) as socket:  # fmt: skip
            app = App(socket)
            app.welcome = await app.read("welcome", READY_S)
            yield app

    async def send(self, *items: tuple[str, FillItem]) -> list[ReceiptCode]:
        """Dispatch stored entries to their users in one batch, as a worker would; the gateway's reply."""
        packed = [
            batch.Item(
                batch.NOTIFICATION, e.lane, 0, e.seq, e.prev, e.expiry_ms, e.id,
                names.user_tag("acme", user).encode(), e.body,
            )
            for user, e in items
        ]  # fmt: skip
        subject = names.gateway_subject(self._gateway_id, "high")
        reply = await self._bus.request(subject, batch.pack(packed, now_ms()), READY_S)
        return batch.unpack_reply(reply, len(packed))

    # --- the process ----------------------------------------------------------
    @property
    def pid(self) -> int:
        process = self._process.child.process
        assert process is not None
        return process.pid

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def cpu_s(self) -> float:
        """User and system time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def limit_descriptors(self, count: int) -> None:
        """From outside and while it runs: it does not know."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))

    async def metric(self, name: str) -> float:
        """A line of /metrics by its name and labels."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(READY_S):
            body = await reader.read()
        writer.close()
        values = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if " " in line)
        return float(values.get(name, "0"))
