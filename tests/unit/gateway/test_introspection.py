"""What is asked of an AuthService, and what is believed of it; over sockets to a real server."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gateway import introspection as module
from gateway.introspection import Introspection
from gateway.tokens import Asked, Claims, Identity, Keys
from notification import limits, telemetry
from notification.codes import Refusal, Refusals
from notification.messages import EdgeKey, EdgeTenant
from tests.auth_service import Server, active, asking, asking_nobody, serving

KEYS = Keys([EdgeTenant("acme", "active", [], [EdgeKey("herald:acme", "herald", "", "HS256", b"s" * 32)])])


class Clock:
    """The monotonic ms of the module under test, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "now_ms", clock)
    return clock


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def introspection(server: Server) -> AsyncIterator[Introspection]:
    introspection = asking(server.url)
    yield introspection
    await introspection.close()


async def admit(claims: Claims) -> Identity | Refusal:
    return KEYS.vouched(claims, module.time.time())


async def ask(introspection: Introspection, token: str) -> Identity | Refusal:
    asked = introspection.ask(token, admit)
    return await asked.answer if isinstance(asked, Asked) else asked


def counted(outcome: str) -> float:
    value: float = telemetry.AUTH_SERVICE_QUESTIONS.labels(outcome)._value.get()
    return value


@pytest.mark.parametrize(("everything", "jwt"), [(False, False), (True, True)])
async def test_which_tokens_it_judges(everything: bool, jwt: bool) -> None:
    introspection = asking("http://127.0.0.1:1/introspect", everything)
    assert introspection.judges("2YotnFZFEjr1zCsicMWpAA")
    assert introspection.judges("v2.local")
    assert introspection.judges("a.b.c") is jwt
    await introspection.close()


async def test_an_active_token_is_believed_for_a_while(
    server: Server, introspection: Introspection, clock: Clock
) -> None:
    server.tokens["good"] = active(did="phone")
    before = counted("active")
    identity = await ask(introspection, "good")
    assert isinstance(identity, Identity)
    assert (identity.tenant, identity.user, identity.device) == ("acme", "ann", "phone")
    claims = introspection.recall("good")
    assert isinstance(claims, Claims)
    assert await admit(claims) == identity
    assert counted("active") == before + 1
    clock.now_ms += limits.AUTH_SERVICE_ACTIVE_MS - 1
    assert introspection.recall("good") is claims
    clock.now_ms += 1
    assert introspection.recall("good") is None


async def test_an_inactive_token_is_refused_for_a_while(
    server: Server, introspection: Introspection, clock: Clock
) -> None:
    assert introspection.recall("bad") is None
    assert await ask(introspection, "bad") is Refusals.UNAUTHENTICATED
    assert introspection.recall("bad") is Refusals.UNAUTHENTICATED
    clock.now_ms += limits.AUTH_SERVICE_INACTIVE_MS
    assert introspection.recall("bad") is None


@pytest.mark.parametrize(
    "answer",
    [
        active(iss=None), active(aud=None), active(exp=None), active(sub=None), active(tid=None), active(jti=None),
        active(exp="soon"), active(sub=7), active(did=["phone"]),
    ],
)  # fmt: skip
async def test_active_without_the_claims_of_a_jwt_is_nobody(
    server: Server, introspection: Introspection, answer: dict[str, Any]
) -> None:
    server.tokens["odd"] = answer
    before = counted("unfit")
    assert await ask(introspection, "odd") is Refusals.UNAUTHENTICATED
    assert introspection.recall("odd") is Refusals.UNAUTHENTICATED
    assert counted("unfit") == before + 1


@pytest.mark.parametrize(
    "claims",
    [
        {"tenant": "evil", "iss": "herald:acme"}, {"aud": "other"}, {"aud": []}, {"exp": 1}, {"nbf": 2**40},
        {"iat": 2**40}, {"sub": "a b"}, {"sub": ""}, {"jti": ""}, {"did": "a/b"}, {"tid": "*"},
    ],
)  # fmt: skip
async def test_claims_are_held_to_the_rules_of_a_jwt(
    server: Server, introspection: Introspection, claims: dict[str, Any]
) -> None:
    server.tokens["odd"] = active(**claims)
    assert await ask(introspection, "odd") is Refusals.UNAUTHENTICATED


async def test_a_name_that_comes_twice_is_nobody(server: Server, introspection: Introspection) -> None:
    async def twice(request: web.Request) -> web.StreamResponse:
        return web.Response(text=json.dumps(active()).replace('"sub": "ann"', '"sub": "ann", "sub": "bob"'))

    server.handler = twice
    assert await ask(introspection, "odd") is Refusals.UNAUTHENTICATED


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "{}", '{"active":"true"}', '{"active":1}', '{"active":true', "<html>", "[" * 60_000]
)
async def test_a_malformed_answer_is_none(server: Server, introspection: Introspection, body: str) -> None:
    async def junk(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    server.handler = junk
    before = counted("malformed")
    for _ in range(limits.AUTH_SERVICE_FAILURES_COUNT_MAX + 1):  # no failure: whoever made it up closes no door
        assert await ask(introspection, "any") is Refusals.AUTH_UNAVAILABLE
    assert introspection.recall("any") is None
    assert counted("malformed") == before + limits.AUTH_SERVICE_FAILURES_COUNT_MAX + 1


@pytest.mark.parametrize("token", ["", "a b", "a,b", "ü", "a\n", "=a", "x" * (limits.TOKEN_BYTES_MAX + 1)])
async def test_what_can_be_no_token_is_not_asked_about(
    server: Server, introspection: Introspection, token: str
) -> None:
    assert await ask(introspection, token) is Refusals.UNAUTHENTICATED
    assert server.asked == []


async def test_those_who_ask_alike_share_a_question(server: Server, introspection: Introspection) -> None:
    server.tokens["good"] = active()
    server.gate.clear()
    asked = [introspection.ask("good", admit) for _ in range(50)]
    server.gate.set()
    outcomes = {await one.answer for one in asked if isinstance(one, Asked)}
    assert len(outcomes) == 1
    assert isinstance(outcomes.pop(), Identity)
    assert server.asked == ["good"]
    assert not introspection._questions


async def test_questions_are_bounded(
    server: Server, introspection: Introspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUTH_SERVICE_QUESTIONS_COUNT_MAX", 100)
    server.gate.clear()
    asked = [introspection.ask(f"t{number}", admit) for number in range(100)]
    assert all(isinstance(one, Asked) for one in asked)
    before = counted("busy")
    assert introspection.ask("one more", admit) is Refusals.UNAUTHENTICATED
    assert introspection.ask("another", admit) is Refusals.AUTH_UNAVAILABLE
    assert isinstance(introspection.ask("t7", admit), Asked)
    assert counted("busy") == before + 1
    async with asyncio.timeout(30):
        while len(server.asked) < limits.AUTH_SERVICE_REQUESTS_COUNT_MAX:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    # The others hold no place: they give up by themselves.
    waiting = [one.answer for one in asked[limits.AUTH_SERVICE_REQUESTS_COUNT_MAX :] if isinstance(one, Asked)]
    assert set(await asyncio.gather(*waiting)) == {Refusals.AUTH_UNAVAILABLE}
    assert len(server.asked) == limits.AUTH_SERVICE_REQUESTS_COUNT_MAX


async def test_the_breaker_spares_a_dead_service_and_finds_it_again(clock: Clock) -> None:
    introspection = asking_nobody()
    before, opened = counted("away"), telemetry.AUTH_SERVICE_OPENED._value.get()
    failures = limits.AUTH_SERVICE_FAILURES_COUNT_MAX
    for number in range(failures + 20):
        assert await ask(introspection, f"t{number}") is Refusals.AUTH_UNAVAILABLE
    assert counted("away") == before + failures  # the others were not sent
    assert telemetry.AUTH_SERVICE_OPENED._value.get() == opened + 1
    clock.now_ms += limits.AUTH_SERVICE_OPEN_MS
    probe, other = introspection.ask("probe", admit), introspection.ask("other", admit)
    assert isinstance(probe, Asked)
    assert other is Refusals.AUTH_UNAVAILABLE
    assert await probe.answer is Refusals.AUTH_UNAVAILABLE
    assert counted("away") == before + failures + 1
    port = int(re.findall(r":(\d+)/", introspection._service._url)[0])  # type: ignore[attr-defined]
    async with serving(port=port) as server:
        server.tokens["good"] = active()
        assert await ask(introspection, "good") is Refusals.AUTH_UNAVAILABLE
        clock.now_ms += limits.AUTH_SERVICE_OPEN_MS
        assert isinstance(await ask(introspection, "good"), Identity)
        assert await ask(introspection, "bad") is Refusals.UNAUTHENTICATED
    await introspection.close()


async def test_made_up_tokens_do_not_crowd_out_good_ones(introspection: Introspection) -> None:
    good = json.dumps(active()).encode()
    assert isinstance(introspection._take("good", good), Claims)
    for number in range(3 * limits.VERIFIED_TOKENS_COUNT_MAX):
        assert introspection._take(f"t{number}", b'{"active":false}') is Refusals.UNAUTHENTICATED
    assert isinstance(introspection.recall("good"), Claims)
    assert len(introspection._inactive) <= limits.VERIFIED_TOKENS_COUNT_MAX
    for number in range(3 * limits.VERIFIED_TOKENS_COUNT_MAX):
        introspection._take(f"g{number}", good)
    assert len(introspection._active) <= limits.VERIFIED_TOKENS_COUNT_MAX


async def test_a_fault_of_ours_lets_nobody_in(
    server: Server, introspection: Introspection, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(claims: Claims) -> Identity | Refusal:
        raise ZeroDivisionError

    server.tokens["good"] = active()
    asked = introspection.ask("good", broken)
    assert isinstance(asked, Asked)
    assert await asked.answer is Refusals.AUTH_UNAVAILABLE
    assert "introspection_failed" in capsys.readouterr().out


async def test_an_end_leaves_nobody_waiting(server: Server, introspection: Introspection) -> None:
    server.gate.clear()
    asked = introspection.ask("good", admit)
    assert isinstance(asked, Asked)
    told: asyncio.Future[Identity | Refusal] = asyncio.get_running_loop().create_future()
    asked.then(told.set_result)
    await introspection.close()
    assert await told is Refusals.AUTH_UNAVAILABLE
