"""When a kid nobody knows may still be good, and when it is nobody's."""

from gateway.unknown_keys import UnknownKeys
from notification.codes import Refusals
from notification.limits import JWKS_COOLDOWN_S, JWKS_MISSING_COUNT_MAX


def of(*issuers: str) -> UnknownKeys:
    unknown = UnknownKeys()
    unknown.issuers(issuers)
    return unknown


def test_an_issuer_without_a_jwks_is_not_asked_for() -> None:
    unknown = of("a")
    assert unknown.judge("b", 0) is Refusals.TENANT_UNKNOWN_YET
    assert unknown.judge(None, 0) is Refusals.TENANT_UNKNOWN_YET
    assert unknown.asked(0) == {}


def test_it_may_be_good_until_the_keys_were_fetched() -> None:
    unknown = of("a", "b")
    for now_s in (10, 11, 500):
        assert unknown.judge("a", now_s) is Refusals.KEY_UNKNOWN_YET
    assert unknown.asked(500.25) == {"a": 490_250}, "since it was first missed"
    unknown.fetched(["a"], 501)
    assert unknown.asked(501) == {}
    assert unknown.judge("a", 501) is Refusals.UNAUTHENTICATED
    assert unknown.judge("b", 501) is Refusals.KEY_UNKNOWN_YET


def test_after_the_cooldown_it_is_asked_again() -> None:
    unknown = of("a")
    unknown.judge("a", 0)
    unknown.fetched(["a"], 1)
    assert unknown.judge("a", JWKS_COOLDOWN_S + 0.9) is Refusals.UNAUTHENTICATED
    assert unknown.asked(JWKS_COOLDOWN_S) == {}
    assert unknown.judge("a", JWKS_COOLDOWN_S + 1) is Refusals.KEY_UNKNOWN_YET
    assert unknown.asked(JWKS_COOLDOWN_S + 1) == {"a": 0}


def test_a_fetch_nobody_asked_for_says_nothing() -> None:
    unknown = of("a")
    unknown.fetched(["a"], 0)
    assert unknown.judge("a", 1) is Refusals.KEY_UNKNOWN_YET


def test_an_issuer_that_is_gone_is_forgotten() -> None:
    unknown = of("a", "b")
    for issuer in ("a", "b"):
        unknown.judge(issuer, 0)
    unknown.fetched(["b"], 0)
    unknown.issuers([])
    assert unknown.asked(0) == {}
    unknown.issuers(["b"])
    assert unknown.judge("b", 1) is Refusals.KEY_UNKNOWN_YET


def test_a_request_names_so_many_at_most() -> None:
    names = [str(number) for number in range(JWKS_MISSING_COUNT_MAX + 5)]
    unknown = of(*names)
    for name in names:
        unknown.judge(name, 0)
    assert list(unknown.asked(0)) == names[:JWKS_MISSING_COUNT_MAX]
