"""The keys of a payload: master key -> tenant key -> user key, each wrapped by the one above.

The master key is the secret file `master.key` (64 hex digits); wrapped tenant keys are in `tenants`; wrapped user
keys are in the keys database, which only workers reach. Opened keys are cached here in bounded LRUs.
"""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from notification.errors import CryptoError, SettingsError
from notification.limits import KEY_CACHE_ENTRIES_MAX
from notification.settings import Settings
from worker import crypto
from worker.database import PLATFORM, Pool, show_tenants, tenant_ids, tenant_transaction

FIRST_VERSION: Final = 1
User = tuple[str, str]  # tenant, user
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_TENANT_KEYS: Final = "SELECT tenant_id, wrapped_key, key_version FROM tenants WHERE tenant_id = ANY($1)"
_ANY_TENANT_KEY: Final = (
    "SELECT tenant_id, wrapped_key, key_version FROM tenants ORDER BY created_at, tenant_id LIMIT 1"
)
_USER_KEYS: Final = (
    "SELECT DISTINCT ON (tenant_id, entity_id) tenant_id, entity_id, key_version, wrapped_key FROM user_keys "
    "JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, entity_id) USING (tenant_id, entity_id) "
    "ORDER BY tenant_id, entity_id, key_version DESC"
)
_NEW_USER_KEYS: Final = (
    "INSERT INTO user_keys (tenant_id, entity_id, key_version, wrapped_key) "
    "SELECT tenant_id, entity_id, $4, wrapped_key "
    "FROM unnest($1::text[], $2::text[], $3::bytea[]) AS new (tenant_id, entity_id, wrapped_key) "
    "ORDER BY tenant_id, entity_id ON CONFLICT DO NOTHING"
)


class UserKey(NamedTuple):
    """The key under which a user's payloads are sealed, and its version (part of every seal's place)."""

    version: int
    key: bytes


class LRU(Generic[K, V]):
    """A mapping of at most `entries_max`; the least recently used goes first."""

    def __init__(self, entries_max: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._entries_max = entries_max

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)


def master_key(settings: Settings) -> bytes:
    """The master key out of its secret file. Raises SettingsError."""
    text = settings.secret("master.key")
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != crypto.KEY_BYTES:
        raise SettingsError(f"secret file {settings.secrets_path / 'master.key'} must hold 64 hexadecimal digits")
    return key


async def verify_master_key(settings: Settings, master: bytes, pool: Pool) -> None:
    """Open one tenant's key with it; without a tenant any key is right. Raises SettingsError: another master key.

    `pool` is of a role that reads tenants.
    """
    async with pool.acquire() as connection, connection.transaction():
        await show_tenants(connection, await tenant_ids(connection))
        row = await connection.fetchrow(_ANY_TENANT_KEY)
    if row is None:
        return
    try:
        crypto.open_seal(master, row["wrapped_key"], crypto.tenant_key_aad(row["tenant_id"], row["key_version"]))
    except CryptoError as error:
        raise SettingsError(
            f"secret file {settings.secrets_path / 'master.key'} is not the master key that the tenants of this "
            "database were made with: put the right one back (another one opens none of their keys)"
        ) from error


def new_tenant_key(master: bytes, tenant: str) -> bytes:
    """A fresh tenant key, wrapped: `tenants.wrapped_key` of version FIRST_VERSION."""
    return crypto.seal(master, crypto.new_key(), crypto.tenant_key_aad(tenant, FIRST_VERSION))


def seal_issuer_key(master: bytes, tenant: str, issuer: str, kid: str, key: bytes) -> bytes:
    """`issuer_keys.sealed_key` of an HMAC secret or a public key as PEM."""
    return crypto.seal(master, key, crypto.issuer_key_aad(tenant, issuer, kid))


def open_issuer_key(master: bytes, tenant: str, issuer: str, kid: str, sealed: bytes) -> bytes:
    """The inverse of seal_issuer_key. Raises CryptoError."""
    return crypto.open_seal(master, sealed, crypto.issuer_key_aad(tenant, issuer, kid))


class KeyRing:
    """Opens, makes and remembers user keys.

    `pool` is the main database, `keys_pool` the keys database (database.connect_pool with keys=True). A role
    that may not make keys (inbox) asks with create=False.
    """

    def __init__(self, master: bytes, pool: Pool, keys_pool: Pool) -> None:
        self._master = master
        self._pool = pool
        self._keys_pool = keys_pool
        self._tenant_keys: LRU[str, bytes] = LRU(KEY_CACHE_ENTRIES_MAX)
        self._user_keys: LRU[User, UserKey] = LRU(KEY_CACHE_ENTRIES_MAX)

    async def user_keys(self, pairs: Iterable[User], create: bool) -> dict[User, UserKey]:
        """The newest key of each (tenant, user); pairs of an unknown tenant are left out, nothing is made for them.

        Without `create` users who have no key are left out as well. Raises CryptoError when a stored key does
        not open (another master key), database.AWAY when a database is away.
        """
        found: dict[User, UserKey] = {}
        missing: set[User] = set()
        for pair in pairs:
            cached = self._user_keys.get(pair)
            if cached is None:
                missing.add(pair)
            else:
                found[pair] = cached
        if missing:
            found |= await self._fetch(missing, create)
        return found

    async def _fetch(self, missing: set[User], create: bool) -> dict[User, UserKey]:
        tenant_keys = await self._open_tenant_keys({tenant for tenant, _ in missing})
        wanted = sorted(pair for pair in missing if pair[0] in tenant_keys)
        if not wanted:
            return {}
        async with tenant_transaction(self._keys_pool, tenant_keys) as connection:
            rows = await connection.fetch(_USER_KEYS, [pair[0] for pair in wanted], [pair[1] for pair in wanted])
            known = {(row["tenant_id"], row["entity_id"]) for row in rows}
            new = [pair for pair in wanted if pair not in known] if create else []
            if new:
                await connection.execute(
                    _NEW_USER_KEYS,
                    [pair[0] for pair in new],
                    [pair[1] for pair in new],
                    [_wrap_new_user_key(tenant_keys, pair) for pair in new],
                    FIRST_VERSION,
                )
                # Read again: where another worker was first, its key is the one that counts.
                rows += await connection.fetch(_USER_KEYS, [pair[0] for pair in new], [pair[1] for pair in new])
        opened: dict[User, UserKey] = {}
        for row in rows:
            tenant, user, version = row["tenant_id"], row["entity_id"], row["key_version"]
            aad = crypto.user_key_aad(tenant, user, version)
            opened[tenant, user] = UserKey(version, crypto.open_seal(tenant_keys[tenant], row["wrapped_key"], aad))
        for pair, key in opened.items():  # only once the transaction that made them has committed
            self._user_keys.put(pair, key)
        return opened

    async def _open_tenant_keys(self, tenants: set[str]) -> dict[str, bytes]:
        """The opened keys of those tenants that exist."""
        found: dict[str, bytes] = {}
        for tenant in tenants:
            cached = self._tenant_keys.get(tenant)
            if cached is not None:
                found[tenant] = cached
        missing = tenants - found.keys()
        if missing:
            opened = await open_tenant_keys(self._master, self._pool, missing)
            for tenant, key in opened.items():
                self._tenant_keys.put(tenant, key)
            found |= opened
        return found

    async def letter_keys(self, tenants: set[str]) -> dict[str, bytes]:
        """What seals dead letters, by owner: those of `tenants` that exist, and PLATFORM.

        Raises CryptoError, database.AWAY.
        """
        return letter_keys(self._master, await self._open_tenant_keys(tenants))


async def open_tenant_keys(master: bytes, pool: Pool, tenants: Collection[str]) -> dict[str, bytes]:
    """The opened keys of those tenants that exist; `pool` is of a role that reads tenants. Raises CryptoError."""
    async with pool.acquire() as connection, connection.transaction():
        await show_tenants(connection, tenants)
        rows = await connection.fetch(_TENANT_KEYS, sorted(tenants))
    return {
        row["tenant_id"]: crypto.open_seal(
            master, row["wrapped_key"], crypto.tenant_key_aad(row["tenant_id"], row["key_version"])
        )
        for row in rows
    }


def letter_keys(master: bytes, tenant_keys: Mapping[str, bytes]) -> dict[str, bytes]:
    """What seals dead letters, by owner: a key derived from each tenant's, and PLATFORM's from the master key."""
    return {
        owner: crypto.derive_key(key, "dead letters") for owner, key in {**tenant_keys, PLATFORM: master}.items()
    }


def _wrap_new_user_key(tenant_keys: Mapping[str, bytes], pair: User) -> bytes:
    tenant, user = pair
    return crypto.seal(tenant_keys[tenant], crypto.new_key(), crypto.user_key_aad(tenant, user, FIRST_VERSION))
