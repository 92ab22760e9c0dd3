"""Who is looked at after a change, who is closed, and how much of it happens in one turn of the loop."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway._fast.carrier import Connection
from gateway._fast.registry import Registry
from gateway.edge import Change, Edge
from gateway.eviction import Eviction
from notification.codes import Closes
from notification.messages import JTI, TENANT, USER, Revocation
from notification.names import user_tag


class Someone:
    """A connection as far as eviction knows it."""

    def __init__(self, user: str) -> None:
        self.session = SimpleNamespace(tenant="acme", user=user)
        self.closed: list[tuple[int, str]] = []

    def is_open(self) -> bool:
        return not self.closed

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class Judge:
    """An edge snapshot that bars some users and remembers who was asked for."""

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.asked: list[str] = []

    def barred(self, session: Any) -> bool:
        self.asked.append(session.user)
        return session.user in self.users


class World:
    def __init__(self, count: int) -> None:
        self.registry: Registry[Connection] = Registry()
        self.judge = Judge()
        self.everyone = {f"u{number}": Someone(f"u{number}") for number in range(count)}
        for user, someone in self.everyone.items():
            self.registry.add(user_tag("acme", user).encode(), cast(Connection, someone))
        self.eviction = Eviction(self.registry, cast(Edge, self.judge))

    async def settle(self) -> int:
        """Until eviction has nothing to do; how many turns of the loop that took."""
        turns = 0
        while self.eviction._task is not None and not self.eviction._task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    def closed(self) -> set[str]:
        return {user for user, someone in self.everyone.items() if someone.closed}


def revocation(kind: str, value: str = "") -> Revocation:
    return Revocation("acme", kind, value, 1, 2)


async def test_a_user_is_found_without_looking_at_anybody_else() -> None:
    world = World(100)
    world.judge.users = {"u3", "u4"}
    world.eviction.changed(Change(False, [revocation(USER, "u3"), revocation(USER, "gone")]))
    await world.settle()
    assert world.judge.asked == ["u3"]
    assert world.everyone["u3"].closed == [(Closes.REVOKED.code, Closes.REVOKED.reason)]
    assert world.closed() == {"u3"}


@pytest.mark.parametrize(
    "change", [Change(True, []), Change(False, [revocation(JTI, "1")]), Change(False, [revocation(TENANT)])]
)
async def test_a_jti_a_tenant_or_other_tenants_concern_everybody(change: Change) -> None:
    world = World(100)
    world.judge.users = {"u3", "u99"}
    world.eviction.changed(change)
    await world.settle()
    assert len(world.judge.asked) == 100
    assert world.closed() == {"u3", "u99"}


async def test_it_looks_at_a_bounded_number_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.eviction.EVICTION_LOOKS_COUNT_MAX", 10)
    monkeypatch.setattr("gateway.eviction.EVICTION_CLOSE_COUNT", 5)
    world = World(200)
    world.eviction.changed(Change(True, []))
    assert await world.settle() >= 20
    world.judge.users = set(world.everyone)
    world.eviction.changed(Change(True, []))
    assert await world.settle() >= 100
    assert len(world.closed()) == 200


async def test_what_changes_meanwhile_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.eviction.EVICTION_LOOKS_COUNT_MAX", 1)
    world = World(10)
    world.eviction.changed(Change(True, []))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(world.judge.asked) < 10
    world.judge.users = {"u0"}
    world.eviction.changed(Change(False, [revocation(USER, "u0")]))
    await world.settle()
    assert world.closed() == {"u0"}


async def test_closing_gives_up() -> None:
    world = World(10)
    await world.eviction.close()
    world.eviction.changed(Change(True, []))
    await world.eviction.close()
    assert world.judge.asked == []
