"""Revocations by jti, user and tenant: what they hit, and when they end."""

import pytest

from gateway.revocations import Revocations, token_digest, whole_s
from gateway.tokens import Identity
from notification.messages import JTI, TENANT, USER, Revocation

NOW_S = 1_800_000_000


def identity(
    jti: str = "1", user: str = "ann", tenant: str = "acme", issued_s: float | None = NOW_S - 10
) -> Identity:
    return Identity(tenant, user, None, NOW_S + 600.0, jti, issued_s, "iss")


def revoked(*revocations: Revocation) -> Revocations:
    found = Revocations()
    found.add(revocations)
    return found


def by(kind: str, value: str = "", not_before_s: int = NOW_S, expires_s: int = NOW_S + 100) -> Revocation:
    return Revocation("acme", kind, value, not_before_s, expires_s)


def test_nothing_is_revoked_at_first() -> None:
    assert not Revocations().revoked(identity())
    assert not Revocations().revoked(identity(issued_s=None))


def test_a_jti_is_one_token_of_one_tenant() -> None:
    found = revoked(by(JTI, "1"))
    assert found.revoked(identity("1"))
    assert found.revoked(identity("1", issued_s=NOW_S + 50)), "whenever it was issued"
    assert not found.revoked(identity("2"))
    assert not found.revoked(identity("1", tenant="other"))


@pytest.mark.parametrize(("kind", "value"), [(USER, "ann"), (TENANT, "")])
@pytest.mark.parametrize(
    ("issued_s", "hit"),
    [(NOW_S - 10, True), (NOW_S - 0.5, True), (NOW_S, False), (NOW_S + 0.5, False), (None, True), (-5, True)],
)
def test_user_and_tenant_hit_what_was_issued_before(
    kind: str, value: str, issued_s: float | None, hit: bool
) -> None:
    found = revoked(by(kind, value))
    assert found.revoked(identity(issued_s=issued_s)) is hit
    assert not found.revoked(identity(issued_s=issued_s, tenant="other"))


def test_a_user_is_not_another_one() -> None:
    found = revoked(by(USER, "ann"))
    assert not found.revoked(identity(user="bob"))
    assert not found.revoked(identity(jti="ann", user="bob")), "nor a jti"


def test_a_connection_is_judged_as_its_token_is() -> None:
    found = revoked(by(JTI, "1"), by(USER, "bob"))
    assert found.hit("acme", "ann", token_digest("acme", "1"), NOW_S)
    assert not found.hit("acme", "ann", token_digest("acme", "2"), NOW_S)
    assert not found.hit("acme", "ann", 0, 0)
    assert found.hit("acme", "bob", 0, whole_s(None))
    assert found.hit("acme", "bob", 0, whole_s(NOW_S - 0.5))
    assert not found.hit("acme", "bob", 0, whole_s(NOW_S + 0.5))


def test_they_end() -> None:
    found = revoked(by(JTI, "1"), by(USER, "bob", expires_s=NOW_S + 200), by(TENANT, expires_s=NOW_S + 300))
    found.expire(NOW_S + 99)
    assert len(found) == 3
    found.expire(NOW_S + 100)
    assert len(found) == 2
    assert not found.revoked(identity("1", issued_s=NOW_S))
    found.expire(NOW_S + 300)
    assert len(found) == 0
    assert not found.revoked(identity(user="bob", issued_s=None))


@pytest.mark.parametrize(("kind", "value"), [(JTI, "1"), (USER, "ann"), (TENANT, "")])
def test_the_later_of_two_states_counts(kind: str, value: str) -> None:
    """Whatever comes last: a gateway may be told all of it once more."""
    late, early = by(kind, value, NOW_S, NOW_S + 200), by(kind, value, NOW_S - 50, NOW_S + 100)
    found = revoked(late, early)
    found.expire(NOW_S + 150)
    assert len(found) == 1
    assert found.revoked(identity())
    found.expire(NOW_S + 200)
    assert not found.revoked(identity())
    assert len(found) == 0


def test_a_kind_nobody_knows_here_is_nothing() -> None:
    assert len(revoked(by("device", "phone"))) == 0


def test_a_digest_tells_names_apart() -> None:
    assert token_digest("a", "1") == token_digest("a", "1")
    assert len({token_digest(tenant, jti) for tenant in ("a", "b") for jti in ("1", "2", "a 1")}) == 6
    assert all(-(2**63) <= token_digest("a", str(number)) < 2**63 for number in range(100))
