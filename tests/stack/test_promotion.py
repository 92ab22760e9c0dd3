"""A replica becomes the master while acks flow: each ack is stored, or lies in a gap that the audit names."""

import json
from pathlib import Path

import pytest

from gateway.pipeline import RedisPipeline
from notification.codes import Status
from notification.ids import new_ulid
from notification.messages import AckReceipt, ReceiptsEntry, encode
from notification.names import RECEIPTS_FIELD, RECEIPTS_STREAM
from notification.redis_address import parse
from notification.settings import Settings
from tests.contract.valkeys import open_sentinels, until
from tests.stack.lab import open_lab
from worker.partitions import Partitions
from worker.receipts import Receipts
from worker.store import StoredNotification

pytestmark = pytest.mark.stack

PART = 50  # acks of each phase: before, unreplicated, while there is no master, after


class Gateway:
    """What a gateway process sends: an entry per ack, numbered."""

    def __init__(self, pipeline: RedisPipeline, sent: list[StoredNotification]) -> None:
        self.name = f"test-0-{new_ulid()}"
        self._pipeline = pipeline
        self._sent = iter(enumerate(sent, 1))

    def ack(self, count: int) -> None:
        for _ in range(count):
            number, sent = next(self._sent)
            ack = AckReceipt(sent.tenant, "ann", "phone", sent.lane, sent.seq, sent.id.bytes, sent.sent_ms)
            entry = encode(ReceiptsEntry(self.name, number, [ack], []))
            assert self._pipeline.push("XADD", RECEIPTS_STREAM, "*", RECEIPTS_FIELD, entry)


async def test_no_ack_is_lost_silently(servers: Settings, tenant: str, tmp_path: Path) -> None:
    async with open_lab(servers) as lab, open_sentinels(tmp_path) as sentinels:
        sent = await lab.store_many(tenant, "ann", 4 * PART)
        pipeline = RedisPipeline(parse(sentinels.url))
        await pipeline.start(60)
        gateway = Gateway(pipeline, sent)
        gateway.ack(PART)
        await until(lambda: pipeline.queued == 0)
        assert await sentinels.master.client.execute_command("WAIT", 1, 30_000) == 1
        await sentinels.cut_off()
        gateway.ack(PART)  # answered by a master that is about to die
        await until(lambda: pipeline.queued == 0)
        gateway.ack(PART)  # perhaps answered, perhaps not
        await sentinels.promote()
        gateway.ack(PART)
        await until(lambda: pipeline.queued == 0)
        await pipeline.close()

        pool = lab.pools["receipts"]
        role = Receipts(sentinels.replica.client, pool, Partitions(pool), "c1")
        await role.start()
        while await role.step():
            pass
        rows = await lab.rows(
            "SELECT detail::text FROM audit_events WHERE tenant_id = '*' AND event = 'receipts_gap'"
        )
        gaps = [gap for row in rows if (gap := json.loads(row["detail"]))["gateway"] == gateway.name]
        named = {number for gap in gaps for number in range(gap["from"], gap["to"] + 1)}
        stored = set()
        for number, one in enumerate(sent, 1):
            if (await lab.row(tenant, one.id))["status"] == Status.DELIVERED:
                stored.add(number)
        assert stored | named == set(range(1, 4 * PART + 1))
        assert not stored & named
        assert named >= set(range(PART + 1, 2 * PART + 1))  # Redis had said yes to these
        assert stored >= {*range(1, PART + 1), *range(3 * PART + 1, 4 * PART + 1)}
