"""Receipts: numbering, packing, bounds. Their way through outages is in tests/flow/test_gateway_delivery.py."""

import asyncio

import pytest

from gateway._fast.session import Session
from gateway.outbound import Outbound
from notification import messages, telemetry
from notification.limits import RECEIPTS_PER_ENTRY_MAX
from notification.messages import ReceiptsEntry
from notification.names import RECEIPTS_FIELD, RECEIPTS_STREAM
from tests.twins.bus import Hub, MemoryBus
from tests.twins.pipeline import MemoryPipeline, Store


def session() -> Session:
    session = Session(0)
    session.authenticate("acme", "ann", "phone", bytes(16), b"acme:YW5u", 1, 0)
    return session


def entries(store: Store) -> list[ReceiptsEntry]:
    stream = store.streams.get(RECEIPTS_STREAM.encode(), [])
    return [messages.decode_receipts(entry[RECEIPTS_FIELD.encode()]) for entry in stream]


async def test_one_entry_per_tick() -> None:
    store = Store()
    outbound = Outbound(MemoryPipeline(store), MemoryBus(Hub()), "g-1")
    ann = session()
    outbound.opened(ann)
    outbound.acked(ann, 0, 1, b"i" * 16)
    outbound.acked(ann, 2, 9, b"j" * 16)
    assert entries(store) == []
    await asyncio.sleep(0.03)
    outbound.closed(ann, 1000)
    await asyncio.sleep(0.03)
    first, second = entries(store)
    assert (first.gateway_id, first.number, second.number) == ("g-1", 1, 2)
    assert [(ack.lane, ack.seq, ack.id) for ack in first.acks] == [(0, 1, b"i" * 16), (2, 9, b"j" * 16)]
    assert [(receipt.event, receipt.code) for receipt in first.connections] == [("open", 0)]
    assert [(receipt.event, receipt.code) for receipt in second.connections] == [("close", 1000)]


async def test_a_full_entry_does_not_wait_for_the_tick() -> None:
    store = Store()
    outbound = Outbound(MemoryPipeline(store), MemoryBus(Hub()), "g-1")
    ann = session()
    for number in range(RECEIPTS_PER_ENTRY_MAX + 1):
        outbound.acked(ann, 0, number, b"i" * 16)
    assert [len(entry.acks) for entry in entries(store)] == [RECEIPTS_PER_ENTRY_MAX]
    outbound.flush()
    assert [entry.number for entry in entries(store)] == [1, 2]


async def test_a_lost_entry_leaves_a_gap_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.twins.pipeline.PIPELINE_COMMANDS_MAX", 1)
    store = Store()
    pipeline = MemoryPipeline(store)
    outbound = Outbound(pipeline, MemoryBus(Hub()), "g-1")
    ann = session()
    lost = telemetry.RECEIPTS_LOST._value.get()
    store.up = False
    for _ in range(3):
        outbound.acked(ann, 0, 1, b"i" * 16)
        outbound.flush()
    assert telemetry.RECEIPTS_LOST._value.get() - lost == 2
    store.up = True
    assert pipeline.queued == 0
    outbound.acked(ann, 0, 1, b"i" * 16)
    outbound.flush()
    assert [entry.number for entry in entries(store)] == [1, 4]


async def test_live_copies_wait_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.outbound.LIVE_COPIES_COUNT_MAX", 3)
    bus, resumed, published = MemoryBus(Hub()), asyncio.Event(), []

    async def slow(subject: str, payload: bytes) -> None:
        await resumed.wait()
        published.append(messages.decode_receipts(payload).number)

    monkeypatch.setattr(bus, "publish", slow)
    outbound = Outbound(MemoryPipeline(Store()), bus, "g-1")
    dropped = telemetry.BUS_DROPPED._value.get()
    ann = session()
    for number in range(8):
        outbound.acked(ann, 0, number, b"i" * 16)
        outbound.flush()
        await asyncio.sleep(0)
    assert telemetry.BUS_DROPPED._value.get() == dropped + 4
    resumed.set()
    copying = outbound._copying
    assert copying is not None
    await copying
    assert outbound._copying is None
    assert published == [1, 6, 7, 8]
