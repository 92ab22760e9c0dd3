"""Tokens that were verified before: what is asked anew each time, and what is remembered at all."""

import json
import time
from typing import Any

import pytest

from gateway import tokens
from gateway.tokens import Identity, Keys
from notification.codes import Refusals
from notification.limits import TOKEN_LEEWAY_S, VERIFIED_TOKENS_COUNT_MAX
from notification.messages import EdgeKey, EdgeTenant
from tests.reference.tokens import (
    EC,
    ED,
    SECRET,
    SIGNERS,
    claims_of,
    encoded,
    header_of,
    public_pem,
    sign,
    snapshot,
)

NOW_S = int(time.time())


def token(kid: str = "", **claims: Any) -> str:
    values = claims_of(exp=NOW_S + 600, **claims)
    return sign(json.dumps(header_of(kid)).encode(), json.dumps(values).encode(), kid)


def tenant(*keys: EdgeKey, name: str = "acme", status: str = "active") -> EdgeTenant:
    return EdgeTenant(name, status, [], list(keys))


HMAC_KEY = EdgeKey("iss", "herald", "", "HS256", SECRET)
ED_KEY = EdgeKey("iss", "herald", "ed", "EdDSA", public_pem(ED))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The algorithms of the signatures that were checked, one entry each."""
    done: list[str] = []

    def counted(algorithm: str, holds: Any) -> Any:
        def check(*arguments: Any) -> bool:
            done.append(algorithm)
            verdict: bool = holds(*arguments)
            return verdict

        return check

    for algorithm, (fits, holds) in tokens._ALGORITHMS.items():
        monkeypatch.setitem(tokens._ALGORITHMS, algorithm, (fits, counted(algorithm, holds)))
    return done


@pytest.mark.parametrize("kid", SIGNERS)
def test_a_signature_is_checked_once(checks: list[str], kid: str) -> None:
    keys = Keys(snapshot())
    text = token(kid, did="phone", iat=NOW_S)
    first = keys.verify(text, NOW_S)
    assert isinstance(first, Identity)
    assert [keys.verify(str(text), NOW_S + late) for late in (1, 599)] == [first, first]
    assert checks == [SIGNERS[kid][0]]


def test_what_was_refused_is_not_remembered(checks: list[str]) -> None:
    keys = Keys(snapshot())
    signed, _, signature = token().rpartition(".")
    wrong = f"{signed}.{encoded(bytes(32))}"
    assert [keys.verify(wrong, NOW_S) for _ in range(2)] == [Refusals.UNAUTHENTICATED] * 2
    assert len(checks) == 2
    assert isinstance(keys.verify(f"{signed}.{signature}", NOW_S), Identity)
    assert keys.verify(wrong, NOW_S) is Refusals.UNAUTHENTICATED


def test_the_exact_text_counts() -> None:
    keys = Keys(snapshot())
    text = token()
    assert isinstance(keys.verify(text, NOW_S), Identity)
    for near in (text + "=", text[:-1], text + " ", text.swapcase(), text + "." + text):
        assert keys.verify(near, NOW_S) is Refusals.UNAUTHENTICATED


def test_expiry_is_asked_each_time(checks: list[str]) -> None:
    keys = Keys(snapshot())
    text = token()
    assert isinstance(keys.verify(text, NOW_S), Identity)
    late = keys.verify(text, NOW_S + 600)
    assert isinstance(late, Identity)  # within the leeway, and for the rest of it only
    assert late.expiry_s == NOW_S + 600 + TOKEN_LEEWAY_S
    assert keys.verify(text, NOW_S + 605) == late
    assert keys.verify(text, NOW_S + 600 + TOKEN_LEEWAY_S) is Refusals.UNAUTHENTICATED
    assert len(checks) == 2


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_clock_that_was_set_back(claim: str) -> None:
    keys = Keys(snapshot())
    text = token(**{claim: NOW_S})
    assert isinstance(keys.verify(text, NOW_S), Identity)
    assert isinstance(keys.verify(text, NOW_S - TOKEN_LEEWAY_S), Identity)
    assert keys.verify(text, NOW_S - TOKEN_LEEWAY_S - 1) is Refusals.UNAUTHENTICATED


def test_a_removed_key_is_refused_at_once() -> None:
    keys = Keys([tenant(HMAC_KEY, ED_KEY)])
    first, second = token(), token("ed")
    assert isinstance(keys.verify(first, NOW_S), Identity)
    assert isinstance(keys.verify(second, NOW_S), Identity)
    without = Keys([tenant(ED_KEY)], keys)
    assert without.verify(first, NOW_S) is Refusals.TENANT_UNKNOWN_YET
    assert isinstance(without.verify(second, NOW_S), Identity)
    assert Keys([], without).verify(second, NOW_S) is Refusals.TENANT_UNKNOWN_YET


@pytest.mark.parametrize(
    "changed",
    [
        EdgeKey("iss", "herald", "", "HS256", SECRET[::-1]), EdgeKey("iss", "other", "", "HS256", SECRET),
        EdgeKey("iss", "herald", "", "ES256", public_pem(EC)),
    ],
    ids=["secret", "audience", "algorithm"],
)  # fmt: skip
def test_a_changed_key_is_another_key(changed: EdgeKey) -> None:
    keys = Keys([tenant(HMAC_KEY)])
    text = token()
    assert isinstance(keys.verify(text, NOW_S), Identity)
    later = Keys([tenant(changed)], keys)
    assert later.verify(text, NOW_S) is Refusals.UNAUTHENTICATED
    assert isinstance(Keys([tenant(HMAC_KEY)], later).verify(text, NOW_S), Identity)


def test_a_key_that_moved_to_another_tenant() -> None:
    keys = Keys([tenant(HMAC_KEY)])
    text = token()
    assert isinstance(keys.verify(text, NOW_S), Identity)
    moved = Keys([tenant(name="acme"), tenant(HMAC_KEY, name="evil")], keys)
    assert moved.verify(text, NOW_S) is Refusals.UNAUTHENTICATED


def test_a_tenant_that_was_suspended_and_came_back(checks: list[str]) -> None:
    keys = Keys([tenant(HMAC_KEY)])
    text = token()
    assert isinstance(keys.verify(text, NOW_S), Identity)
    suspended = Keys([tenant(HMAC_KEY, status="suspended")], keys)
    assert suspended.verify(text, NOW_S) is Refusals.SUSPENDED
    assert isinstance(Keys([tenant(HMAC_KEY)], suspended).verify(text, NOW_S), Identity)
    assert len(checks) == 1


def test_a_new_snapshot_keeps_what_did_not_change(checks: list[str]) -> None:
    keys = Keys([tenant(HMAC_KEY, ED_KEY)])
    texts = [token(), token("ed")]
    before = [keys.verify(text, NOW_S) for text in texts]
    later = Keys(
        [tenant(HMAC_KEY, ED_KEY), tenant(EdgeKey("new", "herald", "", "HS256", SECRET), name="new")], keys
    )
    assert [later.verify(text, NOW_S) for text in texts] == before
    assert len(checks) == 2


def test_how_many_are_remembered_is_bounded(checks: list[str]) -> None:
    keys = Keys(snapshot())
    first = token()
    assert isinstance(keys.verify(first, NOW_S), Identity)
    for number in range(VERIFIED_TOKENS_COUNT_MAX + 1):
        assert isinstance(keys.verify(token(jti=str(number + 2)), NOW_S), Identity)
    assert len(keys._verified) <= VERIFIED_TOKENS_COUNT_MAX
    assert len(checks) == VERIFIED_TOKENS_COUNT_MAX + 2
    assert isinstance(keys.verify(first, NOW_S), Identity)
    assert len(checks) == VERIFIED_TOKENS_COUNT_MAX + 3


def test_forged_headers_do_not_crowd_out_good_ones() -> None:
    keys = Keys(snapshot())
    assert isinstance(keys.verify(token(), NOW_S), Identity)
    claims, signature = token().split(".")[1:]
    for number in range(1_000):
        header = encoded(json.dumps(header_of("", other=number)).encode())
        assert keys.verify(f"{header}.{claims}.{signature}", NOW_S) is Refusals.UNAUTHENTICATED
    assert len(keys._headers) == len(keys._verified) == 1
