"""Segments on real PostgreSQL: members, versions, bounds, and who may see them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from herald.cli import run
from notification.errors import Conflict, InvalidInput
from notification.limits import SEGMENT_CHUNK_COUNT, SEGMENT_EXPANDED_COUNT_MAX
from notification.settings import FIELDS, Settings
from tests.stack.lab import Lab, open_lab
from worker import segments as module
from worker.operations import Operations
from worker.segments import Segments

pytestmark = pytest.mark.stack

BULK_COUNT = 50_000


@pytest.fixture
async def segments(servers: Settings) -> AsyncIterator[Segments]:
    made = await Operations.connect(servers)
    yield made.segments
    await made.close()


@pytest.fixture
async def lab(servers: Settings, tenant: str) -> AsyncIterator[Lab]:
    async with open_lab(servers) as lab:
        yield lab


async def members(segments: Segments, tenant: str, segment: str) -> dict[str, int]:
    return {member.user: member.added_version async for member in segments.members(tenant, segment)}


async def test_members_come_and_go_with_the_version_that_did_it(segments: Segments, tenant: str, lab: Lab) -> None:
    made = await segments.create(tenant, "vip")
    assert (made.segment, made.members, made.version) == ("vip", 0, 0)
    one, changed = await segments.add(tenant, "vip", ["bob", "ann"])
    assert (one.members, one.version, changed) == (2, 1, 2)
    same, changed = await segments.add(tenant, "vip", ["ann"])
    assert (same.version, changed) == (1, 0)
    _, changed = await segments.remove(tenant, "vip", ["ann", "nobody"])
    assert changed == 1
    back, changed = await segments.add(tenant, "vip", ["ann", "ann", "eve"])
    assert (back.members, back.version, changed) == (3, 3, 2)
    assert await members(segments, tenant, "vip") == {"ann": 3, "bob": 1, "eve": 3}
    rows = await lab.rows(
        "SELECT added_version, removed_version FROM segment_members WHERE tenant_id = $1 AND entity_id = 'ann' "
        "ORDER BY added_version", tenant,
    )  # fmt: skip
    assert [tuple(row.values()) for row in rows] == [(1, 2), (3, None)]
    assert await segments.all(tenant) == [back]


async def test_a_deleted_segment_begins_anew_above_its_versions(segments: Segments, tenant: str, lab: Lab) -> None:
    await segments.create(tenant, "vip")
    await segments.add(tenant, "vip", ["ann", "bob"])
    await segments.delete(tenant, "vip")
    assert await segments.all(tenant) == []
    for gone in (segments.delete(tenant, "vip"), segments.expand(tenant, "vip"), members(segments, tenant, "vip")):
        with pytest.raises(Conflict, match="segment: vip does not exist"):
            await gone
    made = await segments.create(tenant, "vip")
    assert (made.members, made.version) == (0, 2)
    assert await members(segments, tenant, "vip") == {}
    with pytest.raises(Conflict, match="segment: vip exists already"):
        await segments.create(tenant, "vip")


async def test_fifty_thousand_members_are_one_change(segments: Segments, tenant: str) -> None:
    users = [f"user-{number:05}" for number in range(BULK_COUNT)]
    await segments.create(tenant, "all")
    told: list[int] = []
    row, changed = await segments.add(tenant, "all", users, told.append)
    assert (row.members, row.version, changed) == (BULK_COUNT, 1, BULK_COUNT)
    assert told == list(range(SEGMENT_CHUNK_COUNT, BULK_COUNT + 1, SEGMENT_CHUNK_COUNT))
    assert await members(segments, tenant, "all") == dict.fromkeys(users, 1)
    assert await segments.expand(tenant, "all") is None
    row, changed = await segments.remove(tenant, "all", users[SEGMENT_EXPANDED_COUNT_MAX:])
    assert (row.members, changed) == (SEGMENT_EXPANDED_COUNT_MAX, BULK_COUNT - SEGMENT_EXPANDED_COUNT_MAX)
    assert await segments.expand(tenant, "all") == users[:SEGMENT_EXPANDED_COUNT_MAX]
    await segments.delete(tenant, "all")


async def test_a_change_is_done_whole_or_not_at_all(
    segments: Segments, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await segments.create(tenant, "vip")
    for wrong in ("a b", "tenant", "segment:x"):
        with pytest.raises(InvalidInput, match="user: must be"):
            await segments.add(tenant, "vip", ["ann", wrong])
    monkeypatch.setattr(module, "SEGMENT_MEMBERS_COUNT_MAX", 2)
    monkeypatch.setattr(module, "SEGMENT_CHUNK_COUNT", 2)
    with pytest.raises(Conflict, match="vip would have 3 members of 2"):
        await segments.add(tenant, "vip", ["ann", "bob", "eve"])
    assert await members(segments, tenant, "vip") == {}
    monkeypatch.setattr(module, "SEGMENTS_COUNT_MAX", 1)
    with pytest.raises(Conflict, match="has 1 segments already"):
        await segments.create(tenant, "more")


async def test_changes_at_the_same_time_follow_each_other(segments: Segments, tenant: str) -> None:
    await segments.create(tenant, "vip")
    users = [[f"u{writer}-{number}" for number in range(50)] for writer in range(4)]
    rows = await asyncio.gather(*(segments.add(tenant, "vip", batch) for batch in users))
    assert sorted(row.version for row, _ in rows) == [1, 2, 3, 4]
    (row,) = await segments.all(tenant)
    assert row.members == len(await members(segments, tenant, "vip")) == 200


async def test_a_tenant_has_its_own_segments(segments: Segments, tenant: str, lab: Lab) -> None:
    await segments.create(tenant, "vip")
    await segments.add(tenant, "vip", ["ann"])
    assert await segments.all("somebody") == []
    with pytest.raises(Conflict, match="vip does not exist"):
        await segments.add("somebody", "vip", ["eve"])
    with pytest.raises(Conflict, match="tenant: nobody does not exist"):
        await segments.create("nobody", "vip")
    for role in ("receipts", "dispatch", "inbox"):
        own = {"segments"} if role == "dispatch" else {"segment_members"}
        async with lab.pools[role].acquire() as connection:
            for table in own:
                assert await connection.fetch(f"SELECT * FROM {table}") == [], "without naming the tenant"
            for table in {"segments", "segment_members"} - own:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch(f"SELECT * FROM {table}")
            for table in ("segments", "segment_members"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(f"DELETE FROM {table}")


def test_the_commands_say_what_was_done(
    servers: Settings,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {name: getattr(servers, name) for name in FIELDS} | {"data_dir": str(Path(servers.data_dir).resolve())}
    (tmp_path / "herald.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    )

    def herald(action: str, *arguments: str) -> tuple[int, str, str]:
        code = run(["segment", action, *arguments, "--tenant", tenant])
        return code, *capsys.readouterr()

    assert herald("create", "vip") == (0, f"segment vip of tenant {tenant} made\n", "")
    assert herald("create", "vip") == (1, "", "error: segment: vip exists already\n")
    assert herald("add", "vip", "ann", "bob") == (0, "2 of 2 users added to segment vip; 2 are in it now\n", "")
    assert herald("show", "vip") == (0, "ann\nbob\n", "")
    code, out, _ = herald("list")
    assert (code, out.split()[:2]) == (0, ["vip", "2"])
    assert herald("delete", "vip") == (0, f"segment vip of tenant {tenant} deleted\n", "")
    assert herald("list", "--json") == (0, "", "")
    assert herald("remove", "vip", "ann") == (1, "", "error: segment: vip does not exist\n")
