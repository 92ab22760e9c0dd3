"""Tokens against the keys of an edge snapshot: what gets in, and everything that must not."""

import base64
import json
import time
import uuid
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.tokens import Identity, Keys
from notification.codes import Refusal, Refusals
from notification.limits import TOKEN_BYTES_MAX, TOKEN_LEEWAY_S
from notification.messages import EdgeKey, EdgeTenant

SECRET = b"0123456789abcdef0123456789abcdef"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER_EC = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def edge_key(kid: str, algorithm: str, key: bytes, issuer: str = "iss") -> EdgeKey:
    return EdgeKey(issuer, "herald", kid, algorithm, key)


KEYS = Keys(
    [
        EdgeTenant("acme", "active", ["https://a.example"], [
            edge_key("", "HS256", SECRET), edge_key("rsa", "RS256", pem(RSA)), edge_key("ec", "ES256", pem(EC)),
            edge_key("ed", "EdDSA", pem(ED)), edge_key("weak", "RS256", pem(WEAK_RSA)),
            edge_key("short", "HS256", b"short"), edge_key("curve", "ES256", pem(OTHER_EC)),
            edge_key("mixed", "RS256", pem(EC)), edge_key("junk", "RS256", b"junk"), edge_key("none", "none", b""),
        ]),
        EdgeTenant("evil", "suspended", [], [edge_key("", "HS256", SECRET, "evil")]),
    ]
)  # fmt: skip


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    now_s = int(time.time())
    values = {"iss": "iss", "aud": "herald", "sub": "a|b", "tid": "acme", "exp": now_s + 60, "jti": "1"} | claims
    present = {name: value for name, value in values.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers=headers)


def verify(text: str) -> Identity | Refusal:
    return KEYS.verify(text, time.time())


def test_what_a_token_says() -> None:
    now_s = int(time.time())
    identity = KEYS.verify(token(did="phone", exp=now_s + 90, iat=now_s - 5, jti="one"), now_s)
    assert identity == Identity("acme", "a|b", "phone", now_s + 90.0, "one", now_s - 5.0, "iss")
    assert KEYS.verify(token(exp=now_s + 90), now_s) == Identity(
        "acme", "a|b", None, now_s + 90.0, "1", None, "iss"
    )


@pytest.mark.parametrize(
    ("kid", "key", "algorithm"), [("rsa", RSA, "RS256"), ("ec", EC, "ES256"), ("ed", ED, "EdDSA")]
)
def test_public_keys(kid: str, key: Any, algorithm: str) -> None:
    assert isinstance(verify(token(key, algorithm, {"kid": kid})), Identity)


def test_an_audience_list_that_names_us() -> None:
    assert isinstance(verify(token(aud=["other", "herald"])), Identity)


@pytest.mark.parametrize(
    "claims",
    [
        *({name: None} for name in ("aud", "exp", "sub", "tid", "jti")),
        {"aud": "other"}, {"aud": []}, {"exp": "soon"}, {"exp": 1}, {"nbf": 2**40}, {"iat": 2**40},
        {"tid": "evil"}, {"tid": "a.b"}, {"tid": 1}, {"sub": ""}, {"sub": "a b"}, {"sub": "é"}, {"sub": 1},
        {"sub": "u" * 129}, {"sub": "tenant"}, {"sub": "segment:vip"},
        {"jti": ""}, {"jti": 1}, {"did": ""}, {"did": "a.b"}, {"did": 1},
        {"iss": 1}, {"iss": None}, {"exp": []}, {"exp": True}, {"exp": "2000000000"}, {"nbf": []}, {"iat": {}},
        {"aud": 1}, {"aud": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_are_missing_or_wrong(claims: dict[str, Any]) -> None:
    assert verify(raw({"alg": "HS256"}, claims)) is Refusals.UNAUTHENTICATED


def raw(header: dict[str, Any], claims: dict[str, Any], key: bytes = SECRET) -> str:
    """Signed by hand: PyJWT refuses to encode some of what must be refused."""
    now_s = int(time.time())
    values = {"iss": "iss", "aud": "herald", "sub": "u", "tid": "acme", "exp": now_s + 60, "jti": "1"} | claims
    present = {name: value for name, value in values.items() if value is not None}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, present)]
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = signer.sign(b".".join(parts), key)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_hand_made_tokens_are_good_otherwise() -> None:
    assert isinstance(verify(raw({"alg": "HS256"}, {})), Identity)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "HS512"}, {}, {"alg": "HS256", "kid": "rsa"}, {"alg": "RS256"},
        {"alg": "HS256", "kid": 1}, {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "b64": False},
        {"alg": "HS256", "typ": "JWE"}, {"alg": "HS256", "typ": 5},
    ],
    ids=str,
)  # fmt: skip
def test_headers_that_are_wrong(header: dict[str, Any]) -> None:
    assert verify(raw(header, {})) is Refusals.UNAUTHENTICATED


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), -float("inf"), 10**400])
def test_times_that_are_no_times(exp: float) -> None:
    assert verify(raw({"alg": "HS256"}, {"exp": exp})) is Refusals.UNAUTHENTICATED
    assert verify(raw({"alg": "HS256"}, {"nbf": exp})) is Refusals.UNAUTHENTICATED


def test_a_token_for_ever_still_ends() -> None:
    identity = verify(token(exp=2**60))
    assert isinstance(identity, Identity)
    assert identity.expiry_s < time.time() + 400 * 86_400


def test_a_public_key_is_never_a_secret() -> None:
    """The classic confusion: HS256 signed with the text of the RSA key (RFC 8725 §2.1)."""
    assert verify(raw({"alg": "HS256", "kid": "rsa"}, {}, pem(RSA))) is Refusals.UNAUTHENTICATED


@pytest.mark.parametrize("kid", ["weak", "short", "curve", "mixed", "junk", "none"])
def test_keys_that_are_not_fit_for_their_algorithm_are_no_keys(kid: str) -> None:
    assert verify(raw({"alg": "HS256", "kid": kid}, {})) is Refusals.TENANT_UNKNOWN_YET


def test_an_issuer_or_kid_nobody_knows_may_be_known_later() -> None:
    assert verify(token(iss="other")) is Refusals.TENANT_UNKNOWN_YET
    assert verify(token(headers={"kid": "next"})) is Refusals.TENANT_UNKNOWN_YET


def test_a_suspended_tenant() -> None:
    assert verify(token(iss="evil", tid="evil")) is Refusals.SUSPENDED
    assert KEYS.suspended("evil")
    assert KEYS.suspended("gone")
    assert not KEYS.suspended("acme")


def test_a_wrong_signature_says_nothing_about_the_tenant() -> None:
    assert verify(token(b"x" * 32, iss="evil", tid="evil")) is Refusals.UNAUTHENTICATED


def test_leeway() -> None:
    now_s = time.time()
    late = verify(token(exp=int(now_s) - 5))
    assert isinstance(late, Identity)
    assert now_s < late.expiry_s <= now_s + TOKEN_LEEWAY_S
    assert verify(token(exp=int(now_s) - TOKEN_LEEWAY_S - 1)) is Refusals.UNAUTHENTICATED


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "=", lambda text: text + "\n", lambda text: " " + text, lambda text: text + ".x",
        lambda text: text.rsplit(".", 1)[0], lambda text: text.replace(".", "..", 1), lambda text: text[:-1],
        lambda text: text[:5] + "!" + text[5:], lambda text: text + "A" * TOKEN_BYTES_MAX, lambda text: "",
        lambda text: "é.é.é", lambda text: "e30.e30.e30", lambda text: "W10.W10.W10", lambda text: "AA.AA.AA",
        lambda text: text.rsplit(".", 1)[0] + ".",
    ],
)  # fmt: skip
def test_text_that_is_not_a_compact_jws(change: Any) -> None:
    assert verify(change(token())) is Refusals.UNAUTHENTICATED


def test_deep_json_is_refused_quietly() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}").rstrip(b"=").decode()
    assert verify(f"{deep}.{deep}.AA") is Refusals.UNAUTHENTICATED


def test_origins() -> None:
    assert KEYS.origin_allowed("acme", "https://a.example")
    assert not KEYS.origin_allowed("acme", "https://a.example.evil")
    assert not KEYS.origin_allowed("evil", "https://a.example")
    assert not KEYS.origin_allowed(str(uuid.uuid4()), "null")
