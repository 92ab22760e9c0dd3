"""What a user wants to get, by type and by topic; obeyed by the storing transaction (store.py).

A setting of the notification's topic decides, else one of its type, else it is wanted. A system alert always is.
What is not wanted is stored all the same, as CANCELLED. A notification to an audience is one row for many: each
one's setting counts whenever they ask for it (audiences.WANTED), so a change raises the user's rev.
"""

from typing import Final, get_args

import msgspec

from notification.errors import Conflict, InvalidInput
from notification.ids import check_token
from notification.limits import PREFERENCES_TOPICS_COUNT_MAX
from worker.database import Connection
from worker.event import Type

MANDATORY: Final = "system_alert"
_OPTIONAL: Final = frozenset(get_args(Type)) - {MANDATORY}
assert len(_OPTIONAL) == len(get_args(Type)) - 1

_TENANT: Final = "SELECT 1 FROM tenants WHERE tenant_id = $1"
_OF: Final = "SELECT preferences FROM user_state WHERE tenant_id = $1 AND entity_id = $2"
_MAKE: Final = """
INSERT INTO user_state (tenant_id, entity_id, rev) VALUES ($1, $2, 0) ON CONFLICT (tenant_id, entity_id) DO NOTHING
"""
_SET: Final = "UPDATE user_state SET preferences = $3::jsonb, rev = rev + 1 WHERE tenant_id = $1 AND entity_id = $2"


class Preferences(msgspec.Struct, frozen=True, omit_defaults=True):
    """type -> wanted, topic -> wanted; what is not named is as if nothing was set."""

    types: dict[str, bool] = {}
    topics: dict[str, bool] = {}

    def wants(self, kind: str, topic: str | None) -> bool:
        """Whether the user wants a notification of this type and topic."""
        if kind == MANDATORY:
            return True
        if topic is not None and topic in self.topics:
            return self.topics[topic]
        return self.types.get(kind, True)


_encoder: Final = msgspec.json.Encoder(order="sorted")
_decoder: Final = msgspec.json.Decoder(Preferences)


def decode(stored: str | None) -> Preferences | None:
    """The column of user_state; None when nothing was set."""
    return None if stored is None else _decoder.decode(stored)


async def preferences_of(connection: Connection, tenant: str, user: str) -> Preferences:
    """As the running transaction sees them. Raises Conflict: there is no such tenant."""
    await _check_tenant(connection, tenant)
    return decode(await connection.fetchval(_OF, tenant, user)) or Preferences()


async def set_type(connection: Connection, tenant: str, user: str, kind: str, wanted: bool | None) -> Preferences:
    """Turn a type on or off, or (None) forget what was set. Raises InvalidInput."""
    if kind not in _OPTIONAL:
        raise InvalidInput("type", f"must be one of {', '.join(sorted(_OPTIONAL))}; {MANDATORY} always comes")
    found = await _locked(connection, tenant, user)
    return await _store(connection, tenant, user, Preferences(_with(found.types, kind, wanted), found.topics))


async def set_topic(connection: Connection, tenant: str, user: str, topic: str, wanted: bool | None) -> Preferences:
    """The same of a topic. Raises InvalidInput."""
    check_token(topic, "topic")
    found = await _locked(connection, tenant, user)
    topics = _with(found.topics, topic, wanted)
    if len(topics) > PREFERENCES_TOPICS_COUNT_MAX:
        raise Conflict("topic", f"{PREFERENCES_TOPICS_COUNT_MAX} topics are set for this user already; forget one")
    return await _store(connection, tenant, user, Preferences(found.types, topics))


async def _locked(connection: Connection, tenant: str, user: str) -> Preferences:
    """What is set now; nobody else changes it, and no batch of the user is stored, until the transaction ends."""
    await _check_tenant(connection, tenant)
    await connection.execute(_MAKE, tenant, user)
    return decode(await connection.fetchval(_OF + " FOR UPDATE", tenant, user)) or Preferences()


async def _store(connection: Connection, tenant: str, user: str, preferences: Preferences) -> Preferences:
    text = _encoder.encode(preferences).decode() if preferences != Preferences() else None
    await connection.execute(_SET, tenant, user, text)
    return preferences


async def _check_tenant(connection: Connection, tenant: str) -> None:
    if await connection.fetchval(_TENANT, tenant) is None:
        raise Conflict("tenant", f"{tenant} does not exist")


def _with(settings: dict[str, bool], name: str, wanted: bool | None) -> dict[str, bool]:
    others = {other: value for other, value in settings.items() if other != name}
    return others if wanted is None else others | {name: wanted}
