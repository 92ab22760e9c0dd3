"""Issuers that publish their keys: fetched from a real HTTP server, kept in real PostgreSQL, judged by a gateway's
edge snapshot over the memory bus."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web

from gateway.edge import Edge as GatewayEdge
from gateway.tokens import Identity
from notification.codes import Refusal, Refusals
from notification.errors import InvalidInput
from notification.messages import EdgeKey, EdgeRequest
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from tests.twins.bus import Hub, MemoryBus
from tests.twins.presence import MemoryPresence
from tests.unit.worker.key_sets import EC, ED, RSA, jwk, key_set
from worker.clock import DatabaseClock
from worker.edge import Edge
from worker.edge_hint import EdgeHint
from worker.inbox import Inbox
from worker.issuers import Issuers
from worker.jwks_client import JwksClient
from worker.operations import Operations, Publisher
from worker.presence import Beats

pytestmark = pytest.mark.stack

CLIENT = "192.0.2.1"


class Provider:
    """An identity provider on this machine: publishes keys, signs tokens, counts requests."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.issuer = f"https://{tenant}.example"
        self.keys: list[dict[str, Any]] = [jwk(RSA, kid="k1")]
        self.up = True
        self.requests = 0
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.requests += 1
        return web.Response(body=key_set(*self.keys)) if self.up else web.Response(status=503)

    def token(self, kid: str, key: Any = RSA, algorithm: str = "RS256") -> str:
        claims = {"iss": self.issuer, "aud": "herald", "sub": "ann", "tid": self.tenant, "jti": "1",
                  "exp": int(time.time()) + 600}  # fmt: skip
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


@contextlib.asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(provider.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    try:
        yield
    finally:
        await runner.cleanup()


class World:
    """Role inbox, as far as keys go, and a gateway's edge snapshot."""

    def __init__(self, lab: Lab, provider: Provider, client: JwksClient) -> None:
        self.lab = lab
        self.provider = provider
        self.hub = Hub()
        pool = lab.pools["inbox"]
        self.issuers = Issuers(lab.master, pool, client)
        self.edge = Edge(lab.master, pool, self.issuers.want)
        self.gateway = GatewayEdge(MemoryBus(self.hub), lambda change: None)
        self._hint = EdgeHint(pool, MemoryBus(self.hub))
        self._inbox = Inbox(
            MemoryBus(self.hub), pool, lab.inbox_ring, self.edge, MemoryPresence(Beats()), DatabaseClock()
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self._inbox.start()
        await self.gateway.start()
        tasks = [asyncio.create_task(self.issuers.run()), asyncio.create_task(self._hint.run())]
        try:
            yield
        finally:
            await self.gateway.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def judge(self, kid: str, key: Any = RSA, algorithm: str = "RS256") -> Identity | Refusal:
        return self.gateway.of(CLIENT).verify(self.provider.token(kid, key, algorithm))

    async def cool(self) -> None:
        """As if the last fetch were long ago, on the server's side."""
        await self.lab.owner.execute(
            "UPDATE jwks_issuers SET tried_at = tried_at - interval '31 s' WHERE issuer = $1", self.provider.issuer
        )

    async def age(self) -> None:
        """As if it were due again."""
        await self.lab.owner.execute(
            "UPDATE jwks_issuers SET tried_at = tried_at - interval '1 h', "
            "fetched_at = fetched_at - interval '1 h' WHERE issuer = $1", self.provider.issuer,
        )  # fmt: skip

    async def kids(self) -> list[str]:
        reply = await self.edge.snapshot(EdgeRequest(-1))
        [mine] = [tenant for tenant in reply.tenants or [] if tenant.tenant == self.provider.tenant]
        assert mine.jwks_issuers == [self.provider.issuer]
        return [key.kid for key in mine.keys]


@pytest.fixture
async def operations(servers: Settings) -> AsyncIterator[Operations]:
    made = await Operations.connect(servers)
    yield made
    await made.close()


@pytest.fixture
async def world(servers: Settings, tenant: str, operations: Operations) -> AsyncIterator[World]:
    """A tenant of its own whose provider publishes k1; nobody has fetched yet."""
    provider = Provider(f"{tenant}-idp")
    client = JwksClient(plain_loopback=True)
    async with serving(provider), open_lab(servers) as lab:
        publisher = Publisher(provider.issuer, "herald", provider.url)
        await operations.create_tenant(provider.tenant, "Shop", [], [], [publisher])
        yield World(lab, provider, client)
        # Its server is gone after this test: no later one is to ask it.
        await lab.owner.execute("DELETE FROM jwks_issuers WHERE issuer = $1", provider.issuer)
    await client.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, seen from outside
            await asyncio.sleep(0.01)


def knows(world: World, *key: Any) -> Callable[[], bool]:
    return lambda: isinstance(world.judge(*key), Identity)


async def test_published_keys_let_their_users_in(world: World) -> None:
    world.provider.keys = [jwk(RSA, kid="k1"), jwk(EC, kid="k2"), jwk(ED, kid="k3")]
    async with world.running():
        await until(knows(world, "k1"))
        assert knows(world, "k2", EC, "ES256")()
        assert knows(world, "k3", ED, "EdDSA")()
        assert world.judge("k1", EC, "ES256") is Refusals.UNAUTHENTICATED
    assert world.provider.requests == 1


async def test_a_new_key_is_fetched_when_its_first_token_comes(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        world.provider.keys.append(jwk(EC, kid="k2"))
        await world.cool()
        assert world.judge("k2", EC, "ES256") is Refusals.KEY_UNKNOWN_YET
        await until(knows(world, "k2", EC, "ES256"))
        assert knows(world, "k1")()
    assert world.provider.requests == 2


async def test_ten_thousand_forged_kids_are_one_request(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        await world.cool()
        forged = world.provider.token("forged")
        outcomes = {world.gateway.of(CLIENT).verify(forged) for _ in range(5_000)}
        assert outcomes == {Refusals.KEY_UNKNOWN_YET}
        await until(lambda: world.gateway.of(CLIENT).verify(forged) is Refusals.UNAUTHENTICATED)
        outcomes = {world.judge(f"forged{number}") for number in range(50)}
        outcomes |= {world.gateway.of(CLIENT).verify(forged) for _ in range(5_000)}
        assert outcomes == {Refusals.UNAUTHENTICATED}
        assert world.provider.requests == 2
        assert knows(world, "k1")()


async def test_all_inbox_processes_together_keep_the_cooldown(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        other = Issuers(world.lab.master, world.lab.pools["inbox"], JwksClient(plain_loopback=True))
        for issuers in (world.issuers, other):
            issuers.want([world.provider.issuer])
            assert world.provider.issuer not in {one.issuer for one in await issuers._claim(8)}
        await world.cool()
        for issuers in (world.issuers, other):
            issuers.want([world.provider.issuer])
        claims = await asyncio.gather(world.issuers._claim(8), other._claim(8))
        found = [one for claim in claims for one in claim if one.issuer == world.provider.issuer]
        assert len(found) <= 1  # the running process may have been first


async def test_a_key_taken_back_is_refused_after_the_refresh(world: World) -> None:
    world.provider.keys = [jwk(RSA, kid="k1"), jwk(EC, kid="k2")]
    async with world.running():
        await until(knows(world, "k2", EC, "ES256"))
        world.provider.keys = [jwk(EC, kid="k2")]
        await world.age()
        world.issuers.want([])  # look now
        await until(lambda: not knows(world, "k1")())
        assert knows(world, "k2", EC, "ES256")()
        world.provider.keys = []
        await world.age()
        world.issuers.want([])
        await until(lambda: not knows(world, "k2", EC, "ES256")())
        assert await world.kids() == []


async def test_a_key_that_became_another_one_replaces_it(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        world.provider.keys = [jwk(EC, kid="k1")]
        await world.age()
        world.issuers.want([])
        await until(knows(world, "k1", EC, "ES256"))
        assert not knows(world, "k1")()


async def test_the_last_copy_serves_while_the_issuer_is_away(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        world.provider.up = False
        await world.age()
        world.issuers.want([])
        await until(lambda: world.provider.requests == 2)
        assert world.judge("k2") is Refusals.KEY_UNKNOWN_YET, "nobody could say yet"
        assert await world.gateway.refresh()
        assert world.judge("k2") is Refusals.KEY_UNKNOWN_YET
        assert knows(world, "k1")()
    assert await world.kids() == ["k1"]
    anew = Edge(world.lab.master, world.lab.pools["inbox"], lambda issuers: None)  # after a restart of the inbox
    [mine] = [t for t in (await anew.snapshot(EdgeRequest(-1))).tenants or [] if t.tenant == world.provider.tenant]
    assert [key.kid for key in mine.keys] == ["k1"]


async def test_a_set_that_did_not_change_changes_no_version(world: World) -> None:
    async with world.running():
        await until(knows(world, "k1"))
        before = (await world.edge.snapshot(EdgeRequest(-1))).version
        await world.age()
        world.issuers.want([])
        await until(lambda: world.provider.requests == 2)
        await world.cool()
        world.issuers.want([world.provider.issuer])
        await until(lambda: world.provider.requests == 3)  # which starts once the one before is kept
        assert (await world.edge.snapshot(EdgeRequest(-1))).version == before


async def test_a_pinned_key_is_not_replaced_by_a_published_one(
    servers: Settings, tenant: str, operations: Operations
) -> None:
    provider = Provider(f"{tenant}-pin")
    pinned = EdgeKey(provider.issuer, "herald", "k1", "HS256", b"s" * 32)
    client = JwksClient(plain_loopback=True)
    async with serving(provider), open_lab(servers) as lab:
        provider.keys.append(jwk(EC, kid="k2"))
        publisher = Publisher(provider.issuer, "herald", provider.url)
        await operations.create_tenant(provider.tenant, "Shop", [], [pinned], [publisher])
        world = World(lab, provider, client)
        async with world.running():
            await until(knows(world, "k2", EC, "ES256"))
            assert knows(world, "k1", b"s" * 32, "HS256")()
            assert not knows(world, "k1")()
        await lab.owner.execute("DELETE FROM jwks_issuers WHERE issuer = $1", provider.issuer)
    await client.close()


async def test_an_issuer_belongs_to_one_tenant_and_its_url_is_checked(
    world: World, operations: Operations, tenant: str
) -> None:
    provider = world.provider
    with pytest.raises(InvalidInput, match=f"issuer: {provider.issuer} is taken already"):
        await operations.create_tenant(
            f"{tenant}-x", "X", [], [], [Publisher(provider.issuer, "herald", provider.url)]
        )
    with pytest.raises(InvalidInput, match="jwks_url: must be https"):
        await operations.create_tenant(f"{tenant}-x", "X", [], [], [Publisher("i", "herald", "http://id.example/")])
    assert f"{tenant}-x" not in {one.tenant for one in await operations.list_tenants()}
