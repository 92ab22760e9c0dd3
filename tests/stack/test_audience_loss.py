"""What the bus loses of an audience's comes all the same, asked for once a process; a recall reaches live devices.

The gateway is in this process, on NATS, Redis and worker of the running system: its bus loses what it is told.
"""

import asyncio
import contextlib
import dataclasses
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.listener import bind
from gateway.pipeline import RedisPipeline
from gateway.process import Gateway, make_gateway_id
from notification import batch, messages, names
from notification.bus import Handler, NatsBus, Served
from notification.ids import new_uuid7
from notification.limits import STARTUP_DEADLINE_S
from notification.messages import RecallReply, RecallRequest
from notification.redis_address import parse
from notification.settings import Settings
from tests.conftest import Mint
from tests.stack.route import WAIT_S, App, Upstream
from worker.operations import Operations

pytestmark = pytest.mark.stack


class LossyBus(NatsBus):
    """Loses the audience items of these seqs, each time that they come; counts what was answered, by subject."""

    lost: frozenset[int] = frozenset()
    answered: Counter[str]

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        reply = await super().request(subject, payload, timeout_s)
        self.answered[subject] += 1
        return reply

    async def serve(self, subject: str, handler: Handler, queue: str = "", concurrent: bool = False) -> Served:
        async def lossy(subject: str, payload: bytes) -> bytes | None:
            _, items = batch.unpack(payload)
            if any(item.kind == batch.AUDIENCE and item.seq in self.lost for item in items):
                return None
            return await handler(subject, payload)

        audience = subject.startswith(names.audience_subject("", "").rstrip("."))
        return await super().serve(subject, lossy if audience else handler, queue, concurrent)


@pytest.fixture
async def bus(system: Settings) -> AsyncIterator[LossyBus]:
    made = await LossyBus.connect(system.nats_url, "lossy")
    assert isinstance(made, LossyBus)
    made.answered = Counter()
    yield made
    await made.close()


@pytest.fixture
async def gateway(system: Settings, bus: LossyBus) -> AsyncIterator[Settings]:
    """Settings of the system, but for the port: that of the gateway in this process."""
    pipeline = RedisPipeline(parse(system.redis_url))
    await pipeline.start(STARTUP_DEADLINE_S)
    gateway = Gateway(bus, pipeline, make_gateway_id(9))
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    await gateway.start(sock)
    yield dataclasses.replace(system, gateway_port=port)
    await gateway.close()
    await pipeline.close()


@contextlib.asynccontextmanager
async def connected(gateway: Settings, mint: Mint, tenant: str, *users: str) -> AsyncIterator[list[App]]:
    async with contextlib.AsyncExitStack() as stack:
        apps = [await App(gateway, mint(tenant, user), "phone").open() for user in users]
        for app in apps:
            stack.push_async_callback(app.aclose)
        yield apps


async def send(upstream: Upstream, tenant: str, **fields: str) -> str:
    event = {
        "id": str(new_uuid7()), "tenant_id": tenant, "type": "service", "payload": {"title": "T", "body": "B"},
    } | fields  # fmt: skip
    await upstream.send_raw("high", names.audience_record_key(tenant), json.dumps(event).encode())
    return str(event["id"])


async def recalled(bus: LossyBus, tenant: str, ident: str) -> RecallReply:
    """The reply of role inbox, asked again while it is busy."""
    request = messages.encode(RecallRequest(tenant, uuid.UUID(ident).bytes))
    async with asyncio.timeout(WAIT_S):
        while True:
            reply = messages.decode_reply(await bus.request(names.INBOX_RECALL, request, WAIT_S))
            if isinstance(reply, RecallReply):
                return reply
            await asyncio.sleep(0.05)


async def test_what_the_bus_lost_last_is_filled_once_for_all_connections(
    system: Settings, gateway: Settings, bus: LossyBus, tenant: str, mint: Mint
) -> None:
    bus.lost = frozenset({2})
    async with Upstream(system) as upstream, connected(gateway, mint, tenant, "ann", "bob", "cy") as apps:
        first = await send(upstream, tenant, audience="tenant")
        assert [(await app.notification())["id"] for app in apps] == [first] * 3
        second = await send(upstream, tenant, audience="tenant")
        assert [(await app.notification())["id"] for app in apps] == [second] * 3
        assert bus.answered[names.INBOX_AUDIENCE_FILL] == 1
        third = await send(upstream, tenant, audience="tenant")
        for app in apps:
            frame = await app.notification()
            assert (frame["id"], frame["seq"]) == (third, 3)


async def test_a_recall_reaches_the_live_devices_of_those_it_was_for(
    system: Settings, gateway: Settings, bus: LossyBus, tenant: str, mint: Mint
) -> None:
    operations = await Operations.connect(system)
    await operations.segments.create(tenant, "vip")
    await operations.segments.add(tenant, "vip", ["ann", "bob"])
    await operations.close()
    async with Upstream(system) as upstream, connected(gateway, mint, tenant, "ann", "bob", "eve") as apps:
        ident = await send(upstream, tenant, segment_id="vip")
        for app in apps[:2]:
            assert (await app.notification())["id"] == ident
        assert (await recalled(bus, tenant, ident)).known
        for app in apps[:2]:
            state = await app.frame("state")
            assert (state["ids"], state["to"]) == ([ident], "recalled")
        # Eve's would have been written in the same turn as theirs.
        direct = await upstream.send(tenant, "eve", "direct")
        assert (await apps[2].frame("state", "n"))["id"] == direct
