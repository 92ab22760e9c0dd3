"""The edge snapshot of thousands of tenants, from real PostgreSQL over real NATS into a gateway process's copy."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.edge import Edge as GatewayEdge
from gateway.tokens import Identity
from notification import messages
from notification.bus import NatsBus
from notification.limits import BUS_MESSAGE_BYTES_MAX, EDGE_PAGE_BYTES_MAX
from notification.messages import EdgeReply, EdgeRequest, Failure
from notification.names import INBOX_EDGE
from notification.settings import Settings
from tests.stack.lab import Lab, open_lab
from tests.twins.presence import MemoryPresence
from worker.clock import DatabaseClock
from worker.database import tenant_ids
from worker.edge import Edge
from worker.inbox import Inbox
from worker.keys import seal_issuer_key
from worker.presence import Beats

pytestmark = pytest.mark.stack

COUNT = 3_000  # of which one bus message held 949
KEYS_PER_TENANT = 2
SEEN = 250


@pytest.fixture
async def lab(servers: Settings) -> AsyncIterator[Lab]:
    async with open_lab(servers) as lab:
        yield lab


@pytest.fixture
async def inbox(lab: Lab, servers: Settings) -> AsyncIterator[Inbox]:
    """The role, on NATS."""
    pool = lab.pools["inbox"]
    bus = await NatsBus.connect(servers.nats_url, "inbox")
    edge = Edge(lab.master, pool, lambda issuers: None)
    made = Inbox(bus, pool, lab.inbox_ring, edge, MemoryPresence(Beats()), DatabaseClock())
    await made.start()
    yield made
    await bus.close()


@pytest.fixture
async def many(lab: Lab) -> AsyncIterator[tuple[list[str], rsa.RSAPrivateKey]]:
    """So many tenants, each with two RS256 keys; and what all of them sign with."""
    private = rsa.generate_private_key(65_537, 2_048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    prefix = f"many-{secrets.token_hex(5)}-"
    tenants = [f"{prefix}{number:05}" for number in range(COUNT)]
    for names in (tenants[at : at + SEEN] for at in range(0, COUNT, SEEN)):
        rows = [(tenant, f"iss:{tenant}", f"k{kid}") for tenant in names for kid in range(KEYS_PER_TENANT)]
        sealed = [seal_issuer_key(lab.master, *row, public) for row in rows]
        await see(lab, names)
        await lab.owner.execute(
            "INSERT INTO tenants (tenant_id, tenant_name, origins, wrapped_key, key_version) "
            "SELECT id, id, '{}', '\\x00', 1 FROM unnest($1::text[]) AS id", names,
        )  # fmt: skip
        await lab.owner.execute(
            "INSERT INTO issuer_keys (tenant_id, issuer, audience, kid, algorithm, sealed_key) "
            "SELECT tenant, issuer, 'herald', kid, 'RS256', sealed "
            "FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS made (tenant, issuer, kid, sealed)",
            *(list(column) for column in zip(*rows, strict=True)), sealed,
        )  # fmt: skip
    yield tenants, private
    for names in (tenants[at : at + SEEN] for at in range(0, COUNT, SEEN)):
        await see(lab, names)
        for table in ("issuer_keys", "tenants"):
            await lab.owner.execute(f"DELETE FROM {table} WHERE tenant_id = ANY($1)", names)


async def see(lab: Lab, tenants: Sequence[str]) -> None:
    """Rows of these, few: PostgreSQL compares each row with each of them."""
    await lab.owner.execute("SELECT set_config('herald.tenants', $1, false)", ",".join(tenants))


async def test_thousands_of_tenants_with_two_rsa_keys_each_become_known(
    servers: Settings, lab: Lab, inbox: Inbox, many: tuple[list[str], rsa.RSAPrivateKey]
) -> None:
    tenants, private = many
    bus = await NatsBus.connect(servers.nats_url, "gateway")
    edge = GatewayEdge(bus, lambda change: None)
    await edge.start()
    try:
        async with asyncio.timeout(60):
            while not edge.known:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.05)
        for tenant in (tenants[0], tenants[-1]):
            claims = {"iss": f"iss:{tenant}", "aud": "herald", "tid": tenant, "sub": "ann", "jti": "1"}
            token = jwt.encode(
                claims | {"exp": int(time.time()) + 600}, private, algorithm="RS256", headers={"kid": "k1"}
            )
            assert isinstance(edge.of("192.0.2.1").verify(token), Identity)
        found: list[str] = []
        more = True
        while more:
            request = EdgeRequest(-1, 2**60, {}, found[-1] if found else "")
            answer = await inbox.handle(INBOX_EDGE, messages.encode(request))
            assert len(answer) < EDGE_PAGE_BYTES_MAX + 10_000
            reply = messages.decode_reply(answer)
            assert isinstance(reply, EdgeReply)
            found += [one.tenant for one in reply.tenants or []]
            more = reply.tenants_more
        assert found == sorted(await tenant_ids(lab.owner))
    finally:
        await edge.close()
        await bus.close()


async def test_a_tenant_that_no_page_can_hold_harms_itself_alone(lab: Lab, inbox: Inbox, tenant: str) -> None:
    large = EdgeRequest(-1)
    origins = [f"https://{number:0200}.example" for number in range(EDGE_PAGE_BYTES_MAX // 200)]
    await see(lab, [tenant])
    await lab.owner.execute("UPDATE tenants SET origins = $2 WHERE tenant_id = $1", tenant, origins)
    found = {}
    more = True
    while more:
        reply = messages.decode_reply(await inbox.handle(INBOX_EDGE, messages.encode(large)))
        assert isinstance(reply, EdgeReply)
        assert reply.tenants
        found |= {one.tenant: one for one in reply.tenants}
        large = EdgeRequest(-1, after_tenant=reply.tenants[-1].tenant)
        more = reply.tenants_more
    assert (found[tenant].status, found[tenant].origins, found[tenant].keys) == ("active", [], [])
    assert set(found) == set(await tenant_ids(lab.owner))


async def test_an_answer_the_bus_would_not_take_is_busy_at_once(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def large(*_: object) -> EdgeReply:
        return EdgeReply(1, 1, None, fetched=["x" * BUS_MESSAGE_BYTES_MAX])

    monkeypatch.setattr("worker.edge.Edge.snapshot", large)
    answer = messages.decode_reply(await inbox.handle(INBOX_EDGE, messages.encode(EdgeRequest(-1))))
    assert answer == Failure("busy")
