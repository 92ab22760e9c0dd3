"""`python -m worker` with a master key that is not the database's."""

import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from devstack.children import environment
from notification.settings import Settings
from worker.database import connect_pool, replace_dsn
from worker.keys import master_key, verify_master_key
from worker.migrate import migrate

pytestmark = pytest.mark.stack


@pytest.fixture
def others(servers: Settings, tenant: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a worker whose master.key is another one."""
    assert tenant
    folder = tmp_path / "secrets"
    shutil.copytree(servers.secrets_path, folder)
    (folder / "master.key").chmod(0o600)
    (folder / "master.key").write_text("ab" * 32)
    return environment(servers) | {"HERALD_SECRETS_DIR": str(folder)}


@pytest.mark.parametrize("roles", [["dispatch"], ["inbox"], ["dispatch", "receipts", "inbox"]])
def test_another_master_key_ends_it_with_one_line_naming_the_file(others: dict[str, str], roles: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "worker", *roles], env=others, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"worker: secret file {others['HERALD_SECRETS_DIR']}/master.key")
    assert "ab" * 32 not in line


@pytest.mark.parametrize("role", ["dispatch", "inbox"])
async def test_the_right_key_is_taken_and_without_a_tenant_any_is(
    servers: Settings, tenant: str, role: str
) -> None:
    pool = await connect_pool(servers, role)
    try:
        await verify_master_key(servers, master_key(servers), pool)
    finally:
        await pool.close()
    empty = Settings(
        postgres=replace_dsn(servers.postgres_dsn, database=f"empty_{tenant}"),
        secrets_dir=str(servers.secrets_path),
    )
    await migrate(empty)
    pool = await connect_pool(empty, role)
    try:
        await verify_master_key(empty, bytes(32), pool)
    finally:
        await pool.close()
    owner = await asyncpg.connect(servers.postgres_dsn)
    try:
        for suffix in ("", "_keys"):
            await owner.execute(f'DROP DATABASE "empty_{tenant}{suffix}" WITH (FORCE)')
    finally:
        await owner.close()
