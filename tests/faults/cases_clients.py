"""Faults of gateways, of the network to the clients, and of clients."""

import asyncio
import json
import os
import signal
import time
import uuid
from typing import Final

import google_crc32c
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from notification import ids, names
from tests.faults.crowd import all_back, crowd
from tests.faults.run import Case, Scene
from tests.faults.stack import TENANTS, Parts
from tests.proxy import Proxy
from worker.dead_letter_reader import read

_GATEWAY_RECOVERY_S: Final = 5.0
_FROZEN_S: Final = 15.0
_CROWD: Final = 10_000
_CROWD_STAYS_S: Final = 3.0
_HALF_OPEN_S: Final = 45.0
_SILENT_S: Final = 25.0
_FLAPPING_S: Final = 15.0
_POISON: Final = 20
_UNKNOWN_VERSIONS: Final = (0, 2, 255)
_CRC_AT: Final = 16  # in the header of a batch


async def gateway_killed(scene: Scene) -> None:
    """Every process that holds connections, SIGKILL; the supervisor starts them again."""
    pids = scene.stack.gateway_pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    scene.stack.over()
    await asyncio.sleep(1)
    await scene.all_here()


async def full_gateway_killed(scene: Scene) -> None:
    """One process that holds 10,000 sockets besides those of the ledger, SIGKILL."""
    stack = scene.stack
    async with crowd(stack.settings, TENANTS[0], _CROWD, stack.folder) as load:
        (pid,) = stack.gateway_pids
        scene.seen["sockets"] = (await load.stats())["live"]
        os.kill(pid, signal.SIGKILL)
        stack.over()
        scene.seen["crowd back s"] = await all_back(load, _CROWD)
        await scene.all_here()
        await asyncio.sleep(_CROWD_STAYS_S)
        assert (await load.stats())["live"] == _CROWD


async def gateway_frozen(scene: Scene) -> None:
    """One of two processes stands still for 15 s."""
    pid = scene.stack.gateway_pids[0]
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    os.kill(pid, signal.SIGCONT)


async def gateway_restarted(scene: Scene) -> None:
    """SIGTERM under load: connections are sent away in waves, then a new one starts."""
    await scene.stack.restart_gateway()
    await scene.all_here()


async def sockets_dropped(scene: Scene) -> None:
    """All at once, three times, without a close."""
    for _ in range(3):
        scene.stack.links.clients.drop()
        await asyncio.sleep(2)


async def half_open(scene: Scene) -> None:
    """The network to one user swallows everything and says nothing; the app finds out by itself."""
    hole = Proxy(scene.stack.settings.gateway_port)
    await hole.open()
    device = scene.devices[0]
    usual, device.port = device.port, hole.port
    device.drop()
    await asyncio.sleep(2)
    hole.hold()
    device.port = usual
    await asyncio.sleep(_HALF_OPEN_S)
    await hole.close()


async def never_acks(scene: Scene) -> None:
    """A device that reads and pongs and does not ack: retries, then parked; a good one comes later."""
    for device in scene.devices:
        if device.name.user == scene.devices[0].name.user:
            device.manners.acks = False
    await asyncio.sleep(_SILENT_S)
    rows = await scene.stack.rows()
    scene.seen["statuses before any ack"] = sorted(
        {row.status.value for row in rows if row.user == scene.devices[0].name.user}
    )
    for device in scene.devices:
        device.manners.acks = True
    scene.devices[0].drop()


async def bad_acks(scene: Scene) -> None:
    """Lost, doubled, late, and for ids that were never written to that device."""
    for number, device in enumerate(scene.devices):
        match number % 4:
            case 0:
                device.manners.lost_acks = 0.5
            case 1:
                device.manners.doubled_acks = True
            case 2:
                device.manners.late_acks_s = 3.0
            case 3:
                others = [one for one, sent in scene.ledger.sent.items() if sent.user != device.name.user]
                device.manners.forged.extend([*others[-50:], str(uuid.uuid4())])
    await asyncio.sleep(_FLAPPING_S)
    for device in scene.devices:
        device.manners = type(device.manners)()


async def poison(scene: Scene) -> None:
    """Records that are no events, of no tenant, too old, too long: dead letters, and nobody waits for them."""
    user = scene.devices[0].name.user
    good = {
        "tenant_id": user[0],
        "user_id": user[1],
        "type": "service",
        "payload": {"title": "/".join(user), "body": ""},
    }
    old = str(ids.new_uuid7(int(time.time() * 1_000) - 3 * 86_400_000))
    values = (
        b"not JSON", b"\xff\xfe", b"{}", b"[" * 5_000, json.dumps(good | {"id": old}).encode(),
        json.dumps(good | {"id": str(ids.new_uuid7()), "tenant_id": "nobody"}).encode(),
        json.dumps(good | {"id": str(ids.new_uuid7()), "payload": {"title": "t", "body": "b" * 5_000}}).encode(),
    )  # fmt: skip
    for number in range(_POISON):
        await scene.upstream.send_raw("high", names.record_key(*user), values[number % len(values)])
    scene.seen["poison records"] = _POISON


async def dead_letters(scene: Scene) -> list[str]:
    """Each poison record has its dead letter, and nothing else has one."""
    count = len([letter async for letter in read(scene.stack.client_settings.kafka_servers)])
    scene.seen["dead letters"] = count
    return [] if count == _POISON else [f"{count} dead letters of {_POISON} poison records"]


async def unknown_version(scene: Scene) -> None:
    """Batches of versions that nobody knows, whole by their checksum, between those of today."""
    bus = NatsClient()
    await bus.connect(scene.stack.settings.nats_url)
    sent = 0

    async def heard(message: Msg) -> None:
        nonlocal sent
        for version in _UNKNOWN_VERSIONS:
            if message.data[2] in _UNKNOWN_VERSIONS:  # our own
                return
            batch = bytearray(message.data)
            batch[2] = version
            checked = bytes(batch[:_CRC_AT] + batch[_CRC_AT + 4 :])
            batch[_CRC_AT : _CRC_AT + 4] = google_crc32c.value(checked).to_bytes(4, "big")
            await bus.publish(message.subject, bytes(batch))
            sent += 1

    watching = await bus.subscribe("gateway.*.*", cb=heard)
    await asyncio.sleep(_FLAPPING_S / 3)
    await watching.unsubscribe()
    await bus.close()
    scene.seen["batches of unknown versions"] = sent
    assert sent


async def flapping(scene: Scene) -> None:
    """Clients come and go as fast as they can, while rows are parked for them."""
    end_s = time.monotonic() + _FLAPPING_S
    while time.monotonic() < end_s:
        for device in scene.chance.sample(scene.devices, len(scene.devices) // 2):
            device.drop()
        await asyncio.sleep(scene.chance.uniform(0.02, 0.4))


CASES: Final = (
    Case("gateway killed", "every process, SIGKILL", gateway_killed, _GATEWAY_RECOVERY_S),
    Case(
        "full gateway killed",
        "10,000 sockets on one process, SIGKILL",
        full_gateway_killed,
        _GATEWAY_RECOVERY_S,
        Parts.ONE_GATEWAY,
    ),
    Case("gateway frozen 15 s", "SIGSTOP of one process", gateway_frozen),
    Case("gateway restarted", "SIGTERM, drained under load", gateway_restarted),
    Case("sockets dropped", "all at once, without a close", sockets_dropped, _GATEWAY_RECOVERY_S),
    Case("half-open client", "the network swallows everything", half_open),
    Case("client never acks", "pongs; retried, parked, then delivered to a good one", never_acks),
    Case("bad acks", "lost, doubled, late, forged", bad_acks),
    Case("poison records", "dead-lettered beside the load", poison, checks=dead_letters),
    Case("unknown batch version", "beside version 1", unknown_version),
    Case("park racing with connect", "clients come and go", flapping),
)
