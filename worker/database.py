"""PostgreSQL connections: one pool per role, and transactions that see the tenants they name and no others."""

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Final

import asyncpg
import asyncpg.protocol.protocol
from asyncpg.pool import PoolConnectionProxy

from notification.errors import SettingsError, Unavailable
from notification.limits import (
    DATABASE_COMMAND_DEADLINE_S,
    DATABASE_CONNECT_DEADLINE_S,
    DATABASE_IDLE_TRANSACTION_MS,
    DATABASE_POOL_CONNECTIONS_MAX,
    STARTUP_DEADLINE_S,
)
from notification.settings import Settings
from worker import outage

if TYPE_CHECKING:  # generic for the type checker only
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection | PoolConnectionProxy
    Pool = asyncpg.Pool

# asyncpg asks of each element of an array whether it is an array itself. Asked of the abstract classes, that was a
# fifth of what role dispatch used; the containers that are given to it here are these.
_CONTAINERS: Final = (list, tuple, set, frozenset)
for _name in ("IterableABC", "SizedABC"):
    setattr(asyncpg.protocol.protocol, _name, _CONTAINERS)

ROLES: Final = ("dispatch", "receipts", "inbox", "admin")
KEY_ROLES: Final = ("dispatch", "inbox")  # may reach the users' keys
KEYS_SUFFIX: Final = "_keys"  # of the main database's name
# tenant_id of what belongs to no tenant; no tenant can be called that.
PLATFORM: Final = "*"

# What a connection, a pool or a statement raises when the server is away, starting, stopping or cut off: retried.
AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a link cut in the middle of an answer: asyncpg loses its place in the protocol
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ReadOnlySQLTransactionError,
)

# Statements of the workers find rows by key. A plan is made while tables are small and kept: one that read a whole
# partition, or all of a tenant in it, would do so for each batch until the table is analyzed. Each midnight a new
# partition begins that nobody has analyzed. So a list of keys has LIMIT cardinality($n) behind it: a generic plan's
# limit is a number that the planner does not know, it reckons with one key, and looks that up.
_PLANS: Final = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server is away, not that the statement or its values are wrong."""
    return isinstance(error, AWAY)


def role_user(role: str) -> str:
    """The login of a worker role: `herald_dispatch`."""
    return f"herald_{role}"


def role_dsn(settings: Settings, role: str, keys: bool = False) -> str:
    """The DSN of a worker role, on the main database or (`keys`) on the users' keys.

    The password comes from the secret file `postgres_{role}.password`. Raises SettingsError.
    """
    password = settings.secret(f"postgres_{role}.password").decode("utf-8")
    return replace_dsn(
        settings.postgres_dsn, user=role_user(role), password=password, suffix=KEYS_SUFFIX if keys else ""
    )


def keys_dsn(settings: Settings) -> str:
    """The owner's DSN of the keys database: migrations only."""
    return replace_dsn(settings.postgres_dsn, suffix=KEYS_SUFFIX)


def database_name(dsn: str) -> str:
    """The database a DSN names. Raises SettingsError when it names none."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(dsn).path.lstrip("/"))
    if not name:
        raise SettingsError("postgres: the DSN must name a database: postgresql://user@host:port/DATABASE")
    return name


def replace_dsn(dsn: str, user: str = "", password: str = "", suffix: str = "", database: str = "") -> str:
    """A DSN with another login, another database, or a suffix to the database's name."""
    parts = urllib.parse.urlsplit(dsn)
    login, at, place = parts.netloc.rpartition("@")
    if user:
        login = f"{user}:{urllib.parse.quote(password, safe='')}"
        at = "@"
    path = "/" + urllib.parse.quote((database or database_name(dsn)) + suffix, safe="")
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{login}{at}{place}", path=path))


async def connect_pool(settings: Settings, role: str, keys: bool = False) -> Pool:
    """A pool of the role's connections; waits up to STARTUP_DEADLINE_S for the server. Raises Unavailable.

    A session that dies in a transaction (a frozen worker) is ended by the server, so that its locks go.
    """
    dsn = role_dsn(settings, role, keys)

    async def connect() -> Pool:
        pool: Pool = await asyncpg.create_pool(
            dsn,
            min_size=0,  # no floor: asyncpg would log a traceback a second while PostgreSQL is away
            max_size=DATABASE_POOL_CONNECTIONS_MAX,
            command_timeout=DATABASE_COMMAND_DEADLINE_S,
            timeout=DATABASE_CONNECT_DEADLINE_S,
            reset=_reset,
            server_settings={
                "application_name": role_user(role),
                "idle_in_transaction_session_timeout": str(DATABASE_IDLE_TRANSACTION_MS),
                "timezone": "UTC",
                **_PLANS,
            },
        )
        try:
            async with pool.acquire():  # the first connection tells whether the server is there
                return pool
        except BaseException:
            await pool.close()
            raise

    place = urllib.parse.urlsplit(dsn)
    server = f"PostgreSQL at {place.hostname}:{place.port or 5432}"
    try:
        return await outage.until_up(connect, server, AWAY, STARTUP_DEADLINE_S)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise Unavailable(f"{server} refuses {role_user(role)}: run `python -m worker.migrate` first") from error


async def _reset(connection: Connection) -> None:
    """What a pool does with a connection that comes back: asyncpg's own way is one more question to the server.

    Nothing here changes a session beyond its transaction.
    """
    if connection.is_in_transaction():
        await connection.reset()


@contextlib.asynccontextmanager
async def tenant_transaction(pool: Pool, tenants: Iterable[str]) -> AsyncIterator[Connection]:
    """A transaction on a pooled connection that sees the rows of `tenants` only (none: no rows at all)."""
    async with pool.acquire(timeout=DATABASE_CONNECT_DEADLINE_S) as connection, connection.transaction():
        await show_tenants(connection, tenants)
        yield connection


async def show_tenants(connection: Connection, tenants: Iterable[str]) -> None:
    """Set the tenants that the rest of the running transaction sees."""
    await connection.execute("SELECT set_config('herald.tenants', $1, true)", ",".join(sorted(set(tenants))))


async def tenant_ids(connection: Connection) -> list[str]:
    """Every tenant: what a role that serves all of them (sweeper, edge snapshot) names in its transaction."""
    names: list[str] = await connection.fetchval("SELECT tenant_ids()")
    return names


async def database_ms(connection: Connection) -> int:
    """The database's clock, in Unix ms: the one that judges expiry."""
    now: int = await connection.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return now
