"""`python -m worker.migrate`: make or update the databases, their tables and the login roles. Safe to run again.

Runs as the owner (settings key `postgres`), alone: an advisory lock makes a second run wait. Each migration is
one transaction and is noted in schema_migrations with its checksum; one that was changed after it ran is an error.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Final

import asyncpg

from notification import settings as settings_module
from notification.errors import HeraldError, SettingsError
from notification.limits import DATABASE_CONNECT_DEADLINE_S, STARTUP_DEADLINE_S
from notification.settings import Settings
from worker import database, outage, partitions

if TYPE_CHECKING:  # generic for the type checker only
    Owner = asyncpg.Connection[asyncpg.Record]
else:
    Owner = asyncpg.Connection

Say = Callable[[str], None]

_LOCK: Final = "SELECT pg_advisory_lock(hashtext('herald.migrate'))"
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_SCRAM_ITERATIONS: Final = 4_096  # PostgreSQL's own default


async def migrate(settings: Settings, say: Say = lambda text: None) -> None:
    """Bring both databases and the roles up to date, telling `say` what was done.

    Raises SettingsError (a secret missing, a migration changed after it ran, rights missing) or Unavailable.
    """
    owner = settings.postgres_dsn
    main, keys = database.database_name(owner), database.database_name(database.keys_dsn(settings))
    try:
        await _make_databases(settings, (main, keys), say)
        for dsn, folder in ((owner, "migrations"), (database.keys_dsn(settings), "migrations/keys")):
            connection = await _connect(dsn)
            try:
                await _apply_all(connection, folder, say)
            finally:
                await connection.close()
        connection = await _connect(owner)
        try:
            made = await partitions.make_ahead(connection)
        finally:
            await connection.close()
        if made:
            say(f"{made} partitions made")
    except asyncpg.InsufficientPrivilegeError as error:
        raise SettingsError(
            f"postgres: the owner lacks a right (it needs CREATEDB and CREATEROLE): {error}"
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise SettingsError(f"postgres: the server refuses the owner's login: {error}") from error


async def _connect(dsn: str) -> Owner:
    async def connect() -> Owner:
        connection: Owner = await asyncpg.connect(dsn, timeout=DATABASE_CONNECT_DEADLINE_S)
        return connection

    server = "PostgreSQL at " + dsn.rpartition("@")[2].partition("/")[0]
    return await outage.until_up(connect, server, database.AWAY, STARTUP_DEADLINE_S)


async def _make_databases(settings: Settings, names: tuple[str, ...], say: Say) -> None:
    """Make missing databases and bring the roles' passwords in line, through the always present `postgres`."""
    connection = await _connect(database.replace_dsn(settings.postgres_dsn, database="postgres"))
    try:
        await connection.execute(_LOCK)
        for role in database.ROLES:
            await _make_role(connection, role, settings.secret(f"postgres_{role}.password"), say)
        for name in names:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                await connection.execute(f"CREATE DATABASE {_quote(name)} ENCODING 'UTF8' TEMPLATE template0")
                say(f"database {name} made")
            await connection.execute(f"REVOKE ALL ON DATABASE {_quote(name)} FROM PUBLIC")
        main, keys = names
        for role in database.ROLES:
            await connection.execute(f"GRANT CONNECT ON DATABASE {_quote(main)} TO {database.role_user(role)}")
        for role in database.KEY_ROLES:
            await connection.execute(f"GRANT CONNECT ON DATABASE {_quote(keys)} TO {database.role_user(role)}")
    finally:
        await connection.close()  # which gives the lock back


async def _make_role(connection: Owner, role: str, password: bytes, say: Say) -> None:
    user = database.role_user(role)
    if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", user):
        await connection.execute(f"CREATE ROLE {user} LOGIN")
        say(f"role {user} made")
    # The verifier, not the password: what the server writes into its log gives nobody a login.
    verifier = scram_verifier(password, os.urandom(16))
    await connection.execute(f"ALTER ROLE {user} LOGIN NOCREATEDB NOCREATEROLE PASSWORD '{verifier}'")
    bypasses = await connection.fetchval("SELECT rolbypassrls OR rolsuper FROM pg_roles WHERE rolname = $1", user)
    if bypasses:
        raise SettingsError(
            f"postgres: role {user} is a superuser or bypasses row-level security; it must do neither"
        )


async def _apply_all(connection: Owner, folder: str, say: Say) -> None:
    await connection.execute(_LOCK)
    await connection.execute(_LEDGER)
    rows = await connection.fetch("SELECT version, checksum FROM schema_migrations")
    done = {row["version"]: row["checksum"] for row in rows}
    for version, name, text in _files(folder):
        checksum = hashlib.sha256(text.encode("utf-8")).hexdigest()
        if version in done:
            if done[version] != checksum:
                raise SettingsError(f"migration {folder}/{name} was changed after it ran; add a new one instead")
            continue
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                version,
                name,
                checksum,
            )
        say(f"{folder}/{name} applied")


def _files(folder: str) -> Iterator[tuple[int, str, str]]:
    """(version, name, text) of the folder's `NNNN_name.sql` in order."""
    for entry in sorted(resources.files("worker").joinpath(folder).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            yield int(entry.name.partition("_")[0]), entry.name, entry.read_text("utf-8")


def scram_verifier(password: bytes, salt: bytes) -> str:
    """What PostgreSQL keeps of a password: RFC 5803 with SCRAM-SHA-256 (RFC 7677). ASCII passwords only."""
    if not password.isascii():
        raise SettingsError("a PostgreSQL password file must hold ASCII text")
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(value).decode("ascii") for value in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def main() -> int:
    """Run with the settings of this folder; 0, or 1 with the reason on stderr."""
    try:
        settings, _ = settings_module.load()
        asyncio.run(migrate(settings, print))
    except HeraldError as error:
        print(f"herald: {error}", file=sys.stderr)
        return 1
    print("database is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
