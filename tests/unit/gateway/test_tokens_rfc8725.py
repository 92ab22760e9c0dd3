"""The rules of RFC 8725 (best current practices), 7519 and 7515 that keep a forged or foreign token out, by name.

Each test changes one thing about a token that is good otherwise.
"""

import json
import time
from itertools import count
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.tokens import Identity, Keys
from notification.codes import Refusal, Refusals
from notification.limits import TOKEN_BYTES_MAX, TOKEN_LEEWAY_S
from notification.messages import EdgeKey, EdgeTenant
from tests.reference.tokens import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    RSA,
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
KEYS = Keys(snapshot())


def verdict(text: str, keys: Keys = KEYS) -> Identity | Refusal:
    return keys.verify(text, time.time())


def token(kid: str = "", header: dict[str, Any] | None = None, **claims: Any) -> str:
    texts = json.dumps(header_of(kid, **(header or {}))), json.dumps(claims_of(**claims))
    return sign(texts[0].encode(), texts[1].encode(), kid)


def refused(text: str) -> bool:
    return verdict(text) is Refusals.UNAUTHENTICATED


def forged(header: dict[str, Any], key: bytes) -> str:
    """HS256 with whatever key, under whatever header."""
    signed = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims_of()).encode())}"
    hmac = jwt.get_algorithm_by_name("HS256")
    return f"{signed}.{encoded(hmac.sign(signed.encode(), key))}"


def one_key(algorithm: str, key: bytes, audience: str = AUDIENCE, issuer: str = ISSUER) -> Keys:
    return Keys([EdgeTenant("acme", "active", [], [EdgeKey(issuer, audience, "", algorithm, key)])])


@pytest.mark.parametrize("kid", SIGNERS)
def test_what_is_good_otherwise(kid: str) -> None:
    assert isinstance(verdict(token(kid, did="phone", iat=NOW_S, nbf=NOW_S)), Identity)


# --- RFC 8725 §3.1, §3.2: the algorithm is the key's ------------------------
@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_alg_none_with_and_without_a_signature(name: str) -> None:
    assert refused(token(header={"alg": name}))
    signed = token(header={"alg": name}).rpartition(".")[0]
    assert refused(signed + ".")
    assert refused(signed)


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
@pytest.mark.parametrize("form", ["pem", "pem without its last newline", "der", "pkcs1 or raw"])
def test_a_public_key_is_no_hmac_secret(kid: str, form: str) -> None:
    """RFC 8725 §2.1: HS256 by the text of a key that everybody may know."""
    public = SIGNERS[kid][2]
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    key = {
        "pem": public_pem(SIGNERS[kid][1]),
        "pem without its last newline": public_pem(SIGNERS[kid][1]).rstrip(),
        "der": der,
        "pkcs1 or raw": der[-65:],
    }[form]
    assert refused(forged(header_of(kid, alg="HS256"), key + b"\0" * max(0, 32 - len(key))))


@pytest.mark.parametrize("kid", SIGNERS)
@pytest.mark.parametrize(
    "algorithm", ["HS256", "HS384", "HS512", "RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
)
def test_another_algorithm_than_the_keys(kid: str, algorithm: str) -> None:
    good = algorithm == SIGNERS[kid][0]
    assert isinstance(verdict(token(kid, {"alg": algorithm})), Identity) is good


@pytest.mark.parametrize("alg", [None, 1, ["HS256"], {}, "hs256", "HS256 ", "HS256\0"])
def test_alg_that_is_no_name_of_the_table(alg: object) -> None:
    assert refused(token(header={"alg": alg}))


# --- RFC 8725 §3.3: every signature is checked ------------------------------
@pytest.mark.parametrize("kid", SIGNERS)
def test_each_byte_of_the_signature_counts(kid: str) -> None:
    signed, _, signature = token(kid).rpartition(".")
    places = range(0, len(signature), 1 if len(signature) < 100 else 16)
    for place in places:
        other = "A" if signature[place] != "A" else "B"
        assert refused(f"{signed}.{signature[:place]}{other}{signature[place + 1 :]}")


@pytest.mark.parametrize("kid", SIGNERS)
def test_signatures_of_the_wrong_size(kid: str) -> None:
    signed, _, signature = token(kid).rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    middle = raw[: len(raw) // 2] + b"\0" + raw[len(raw) // 2 :]  # an S of ES256 with a zero before it
    for wrong in (raw[:-1], raw + b"\0", b"\0" + raw, middle, raw * 2, b"\0", b"\0" * len(raw)):
        assert refused(f"{signed}.{encoded(wrong)}")


def test_an_es256_signature_is_r_and_s_not_der() -> None:
    signed, _, _ = token("ec").rpartition(".")
    der = EC.sign(signed.encode(), ec.ECDSA(jwt.get_algorithm_by_name("ES256").hash_alg()))  # type: ignore[attr-defined]
    assert refused(f"{signed}.{encoded(der)}")


def test_claims_of_another_token() -> None:
    header, _, signature = token().split(".")
    claims = token(sub="eve").split(".")[1]
    assert refused(f"{header}.{claims}.{signature}")


def test_the_key_of_another_kid() -> None:
    header = json.dumps(header_of("rsa")).encode()
    parts = sign(header, json.dumps(claims_of()).encode(), "ec")
    assert refused(parts)


# --- RFC 8725 §3.5, RFC 7518 §3.2, §3.3: keys worth the name ----------------
@pytest.mark.parametrize(
    "key", [b"", b"x", b"x" * 31, public_pem(RSA), b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ=="]
)
def test_hmac_keys_that_are_empty_short_or_public(key: bytes) -> None:
    keys = one_key("HS256", key)
    assert verdict(forged(header_of(""), key), keys) is Refusals.TENANT_UNKNOWN_YET


def test_an_hmac_key_of_just_the_size() -> None:
    assert isinstance(verdict(forged(header_of(""), b"x" * 32), one_key("HS256", b"x" * 32)), Identity)


def weak(algorithm: str) -> list[Any]:
    short = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    return {
        "RS256": [short, EC, ED],
        "ES256": [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1()), RSA, ED],
        "EdDSA": [RSA, EC],
    }[algorithm]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys_that_are_short_or_of_another_kind(algorithm: str) -> None:
    for private in weak(algorithm):
        keys = one_key(algorithm, public_pem(private))
        assert verdict(token(header={"alg": algorithm}), keys) is Refusals.TENANT_UNKNOWN_YET


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512", "RS512", "PS256", "ES384", "", "hs256"])
def test_algorithms_that_no_key_may_have(algorithm: str) -> None:
    assert verdict(token(header={"alg": algorithm}), one_key(algorithm, SECRET)) is Refusals.TENANT_UNKNOWN_YET


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert verdict(token(header={"alg": "EdDSA"}), one_key("EdDSA", private)) is Refusals.TENANT_UNKNOWN_YET


# --- RFC 8725 §3.7: one encoding ---------------------------------------------
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("change", ["=", "==", "\n", " ", "\0", "+", "/", "!", "é"])
def test_bytes_before_within_and_after_a_part(part: int, change: str) -> None:
    parts = token().split(".")
    for place in (0, 5, len(parts[part])):
        changed = parts[part][:place] + change + parts[part][place:]
        assert refused(".".join([*parts[:part], changed, *parts[part + 1 :]]))


def test_spare_bits_of_base64url_are_zero() -> None:
    """Two texts of the same bytes: 43 characters hold 32 bytes and two bits."""
    signed, _, signature = token().rpartition(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    assert last % 4 == 0
    for spare in (1, 2, 3):
        assert refused(f"{signed}.{signature[:-1]}{alphabet[last + spare]}")


@pytest.mark.parametrize("kid", SIGNERS)
def test_parts_too_many_and_too_few(kid: str) -> None:
    good = token(kid)
    for wrong in (
        good + ".",
        "." + good,
        good + ".AA",
        good.replace(".", "..", 1),
        good.rpartition(".")[0],
        good * 2,
    ):
        assert refused(wrong)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_utf_8(encoding: str) -> None:
    claims = json.dumps(claims_of())
    assert refused(sign(json.dumps(header_of("")).encode(), claims.encode(encoding), ""))
    assert refused(sign(json.dumps(header_of("")).encode(encoding), claims.encode(), ""))


@pytest.mark.parametrize("put", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\0", b"\\ud800", b"\\x"])
def test_json_strings_are_strict_where_nobody_looks(put: bytes) -> None:
    claims = json.dumps(claims_of(other="here")).encode().replace(b"here", put)
    assert refused(sign(json.dumps(header_of("")).encode(), claims, ""))
    header = json.dumps(header_of("", other="here")).encode().replace(b"here", put)
    assert refused(sign(header, json.dumps(claims_of()).encode(), ""))


@pytest.mark.parametrize("extra", [b" x", b"{}", b",", b"\0", b"//", b"}"])
def test_bytes_around_the_json(extra: bytes) -> None:
    header, claims = json.dumps(header_of("")).encode(), json.dumps(claims_of()).encode()
    for changed in (claims + extra, extra + claims):
        assert refused(sign(header, changed, ""))
    for changed in (header + extra, extra + header):
        assert refused(sign(changed, claims, ""))


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "sub", "tid", "jti", "did", "other", "é"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_claim_twice(name: str, ascii_only: bool) -> None:
    values = claims_of(did="d", other=1) | {"é": 1}
    claims = json.dumps(values, ensure_ascii=ascii_only)
    again = json.dumps({name: values[name]}, ensure_ascii=ascii_only)[1:-1]
    header = json.dumps(header_of("")).encode()
    assert isinstance(verdict(sign(header, claims.encode(), "")), Identity)
    assert refused(sign(header, f"{claims[:-1]},{again}}}".encode(), ""))


def test_a_claim_twice_once_in_disguise() -> None:
    header, claims = json.dumps(header_of("")).encode(), json.dumps(claims_of())
    assert isinstance(verdict(sign(header, claims.replace('"sub"', r'"\u0073ub"').encode(), "")), Identity)
    assert refused(sign(header, f'{claims[:-1]},"\\u0073ub":"eve"}}'.encode(), ""))


@pytest.mark.parametrize("name", ["alg", "typ"])
def test_a_header_parameter_twice(name: str) -> None:
    header = json.dumps(header_of(""))
    again = json.dumps({name: header_of("")[name]})[1:-1]
    assert refused(sign(f"{header[:-1]},{again}}}".encode(), json.dumps(claims_of()).encode(), ""))


def test_a_token_of_any_size_is_bounded() -> None:
    assert refused(token(other="x" * TOKEN_BYTES_MAX))


# --- RFC 8725 §3.8, §3.9: issuer, subject, audience --------------------------
@pytest.mark.parametrize("issuer", ["", "ISS", "iss ", "iss/", "other"])
def test_another_issuer_has_no_key_here(issuer: str) -> None:
    assert verdict(token(iss=issuer)) is Refusals.TENANT_UNKNOWN_YET


@pytest.mark.parametrize(
    "audience",
    ["", "other", "Herald", "not-herald", "herald ", "hera", [], ["other"], [["herald"]], {"herald": 1}, 1, True,
     ["herald", 1], ["not-herald"]],
)  # fmt: skip
def test_another_audience(audience: object) -> None:
    assert refused(token(aud=audience))


def test_one_audience_of_several() -> None:
    assert isinstance(verdict(token(aud=["other", "herald"])), Identity)


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "sub", "tid", "jti"])
def test_a_required_claim_is_missing_or_null(name: str) -> None:
    assert refused(token(**{name: None}))
    claims = json.dumps(claims_of() | {name: None}).encode()
    assert refused(sign(json.dumps(header_of("")).encode(), claims, ""))


@pytest.mark.parametrize("name", ["iss", "sub", "tid", "jti", "did"])
@pytest.mark.parametrize("value", [1, 1.5, True, [], ["a"], {}])
def test_a_name_that_is_no_text(name: str, value: object) -> None:
    assert refused(token(**{name: value}))


def test_the_tenant_is_the_keys() -> None:
    tenants = [*snapshot(), EdgeTenant("evil", "active", [], [EdgeKey("evil", AUDIENCE, "", "HS256", b"e" * 32)])]
    keys = Keys(tenants)
    claims = json.dumps(claims_of(iss="evil", tid="acme")).encode()
    signed = f"{encoded(json.dumps(header_of('')).encode())}.{encoded(claims)}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), b"e" * 32)
    assert verdict(f"{signed}.{encoded(signature)}", keys) is Refusals.UNAUTHENTICATED
    assert refused(token(tid="evil"))


def test_a_key_is_for_an_audience_and_an_issuer() -> None:
    for keys, claims in (
        (one_key("HS256", SECRET, audience=""), claims_of(aud="")),
        (one_key("HS256", SECRET, issuer=""), claims_of(iss="")),
    ):
        text = sign(json.dumps(header_of("")).encode(), json.dumps(claims).encode(), "")
        assert verdict(text, keys) is Refusals.TENANT_UNKNOWN_YET


# --- RFC 8725 §3.10: nothing in a token says which key to trust --------------
KIDS = [
    "../../etc/passwd",
    "' OR 1=1 --",
    "rsa\0",
    "RSA",
    " rsa",
    "x" * 1_000,
    "*",
    "$(id)",
    "http://127.0.0.1/jwks",
]


@pytest.mark.parametrize("kid", KIDS)
def test_a_kid_is_an_exact_name_and_nothing_else(kid: str) -> None:
    assert verdict(forged(header_of("", kid=kid), SECRET)) is Refusals.TENANT_UNKNOWN_YET


@pytest.mark.parametrize("kid", [None, 1, True, [], ["rsa"], {}])
def test_a_kid_is_a_text(kid: object) -> None:
    assert refused(token(header={"kid": kid}))


def test_the_kid_of_another_issuer() -> None:
    tenants = [
        *snapshot(),
        EdgeTenant("evil", "active", [], [EdgeKey("evil", AUDIENCE, "theirs", "HS256", SECRET)]),
    ]
    assert verdict(forged(header_of("", kid="theirs"), SECRET), Keys(tenants)) is Refusals.TENANT_UNKNOWN_YET


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c", "x5t"])
def test_keys_and_addresses_in_the_header_are_not_looked_at(name: str) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(mine.public_key()))
    value = {"jwk": jwk, "x5c": ["AAAA"]}.get(name, "http://127.0.0.1:1/jwks.json")
    header = header_of("ec") | {name: value}
    signed = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims_of()).encode())}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), mine)
    assert refused(f"{signed}.{encoded(signature)}")
    assert isinstance(verdict(token("ec", {name: value})), Identity)


# --- RFC 8725 §3.11, §3.12: what kind of token it is -------------------------
@pytest.mark.parametrize("kind", ["JWE", "JOSE", "dpop+jwt", "secevent+jwt", "logout+jwt", "", "J", 1, None, []])
def test_another_typ(kind: object) -> None:
    header = json.dumps(header_of("") | {"typ": kind}).encode()
    assert refused(sign(header, json.dumps(claims_of()).encode(), ""))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT"])
def test_typ_in_any_case(kind: str) -> None:
    assert isinstance(verdict(token(header={"typ": kind})), Identity)


def test_typ_may_be_absent() -> None:
    assert isinstance(verdict(forged({"alg": "HS256"}, SECRET)), Identity)


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "exp", ["urn:example"]])
def test_crit_asks_for_what_we_do_not_do(crit: object) -> None:
    header = json.dumps(header_of("") | {"crit": crit, "exp": 1}).encode()
    assert refused(sign(header, json.dumps(claims_of()).encode(), ""))


@pytest.mark.parametrize("b64", [False, True, None, 0])
def test_an_unencoded_payload(b64: object) -> None:
    """RFC 7797."""
    header = json.dumps(header_of("") | {"b64": b64}).encode()
    assert refused(sign(header, json.dumps(claims_of()).encode(), ""))


# --- RFC 7519 §4.1.4 to 4.1.6: time ------------------------------------------
@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": NOW_S - TOKEN_LEEWAY_S}, False), ({"exp": NOW_S - TOKEN_LEEWAY_S + 1}, True), ({"exp": 0}, False),
        ({"exp": -1}, False), ({"exp": NOW_S - TOKEN_LEEWAY_S + 0.9}, False), ({"exp": NOW_S + 0.5}, True),
        ({"nbf": NOW_S + TOKEN_LEEWAY_S}, True), ({"nbf": NOW_S + TOKEN_LEEWAY_S + 1}, False), ({"nbf": -5}, True),
        ({"iat": NOW_S + TOKEN_LEEWAY_S}, True), ({"iat": NOW_S + TOKEN_LEEWAY_S + 1}, False), ({"iat": 0}, True),
        ({"exp": 2**62}, False), ({"nbf": -(2**62)}, False), ({"iat": -(2**62)}, False), ({"exp": 1e300}, False),
    ],
    ids=lambda value: None if isinstance(value, bool) else "time",
)  # fmt: skip
def test_times(claims: dict[str, Any], good: bool) -> None:
    assert isinstance(KEYS.verify(token(**claims), float(NOW_S)), Identity) is good


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1", str(NOW_S + 60), True, [], [NOW_S + 60], {}], ids=count())
def test_a_time_that_is_no_number(name: str, value: object) -> None:
    assert refused(token(**{name: value}))
