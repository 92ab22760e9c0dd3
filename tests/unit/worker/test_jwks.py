"""Key sets: which keys count, what is left out, what is no key set; and from where they may come."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from notification.errors import InvalidInput
from notification.limits import JWKS_KEYS_COUNT_MAX, JWKS_URL_CHARS_MAX, KID_CHARS_MAX
from tests.unit.worker.key_sets import EC, ED, RSA, jwk, key_set
from worker.jwks import JwksKey, check_url, parse


def kids(*jwks: Any) -> list[str]:
    return [key.kid for key in parse(key_set(*jwks))]


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
@pytest.mark.parametrize("members", [{}, {"use": "sig"}, {"alg": "its own"}, {"key_ops": ["verify"]}], ids=str)
def test_keys_that_count(key: Any, algorithm: str, members: dict[str, Any]) -> None:
    if "alg" in members:
        members = {"alg": algorithm}
    [found] = parse(key_set(jwk(key, kid="k1", x5c=["certificate"], **members)))
    assert (found.kid, found.algorithm) == ("k1", algorithm)
    assert load_pem_public_key(found.pem) == key.public_key()


def test_a_key_without_kid_is_that_of_tokens_without_kid() -> None:
    assert kids(jwk(RSA)) == [""]


def test_the_first_of_a_kid_counts_and_the_others_beside_it() -> None:
    found = parse(key_set(jwk(EC, kid="a"), jwk(ED, kid="b"), jwk(RSA, kid="a")))
    assert [(key.kid, key.algorithm) for key in found] == [("a", "ES256"), ("b", "EdDSA")]


# What is wrong with it -> a key.
LEFT_OUT: dict[str, Any] = {
    "for encryption": jwk(RSA, kid="x", use="enc"), "use is no text": jwk(RSA, kid="x", use=1),
    "RS512": jwk(RSA, kid="x", alg="RS512"), "PS256": jwk(RSA, kid="x", alg="PS256"),
    "RSA as HMAC": jwk(RSA, kid="x", alg="HS256"), "none": jwk(RSA, kid="x", alg="none"),
    "EC as RSA": jwk(EC, kid="x", alg="RS256"), "cannot verify": jwk(RSA, kid="x", key_ops=["encrypt"]),
    "key_ops is no list": jwk(RSA, kid="x", key_ops="verify"),
    "RSA of 1,024 bits": jwk(rsa.generate_private_key(65_537, 1_024), kid="x"),
    "exponent 3": jwk(rsa.generate_private_key(3, 2_048), kid="x"),
    "RSA of 9,600 bits": jwk(RSA, kid="x", n="AQAB" * 400),
    "P-384": jwk(ec.generate_private_key(ec.SECP384R1()), kid="x"),
    "secp256k1": jwk(ec.generate_private_key(ec.SECP256K1()), kid="x"),
    "Ed448": jwk(ed448.Ed448PrivateKey.generate(), kid="x"),
    "private RSA": jwk(RSA, kid="x", private=True), "private EC": jwk(EC, kid="x", private=True),
    "private Ed25519": jwk(ED, kid="x", private=True),
    "symmetric": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "x", "alg": "HS256"},
    "kid is no text": jwk(RSA, kid=7), "kid too long": jwk(RSA, kid="x" * (KID_CHARS_MAX + 1)),
    "kid with NUL": jwk(RSA, kid="a\0b"), "no modulus": jwk(RSA, kid="x", n=None), "e is no text": jwk(RSA, e=1),
    "n is no base64": jwk(RSA, kid="x", n="!"), "x too short": jwk(EC, kid="x", x="AA"),
    "not on the curve": jwk(EC, kid="x", y=jwk(EC)["x"]), "Ed25519 too short": jwk(ED, kid="x", x="AA"),
    "no curve": jwk(ED, kid="x", crv=None), "kty in lower case": jwk(RSA, kid="x", kty="rsa"),
    "no kty": jwk(RSA, kid="x", kty=None), "kty is no text": jwk(RSA, kid="x", kty=["RSA"]),
    "empty": {}, "a list": [], "a text": "key", "null": None, "a number": 7,
}  # fmt: skip


@pytest.mark.parametrize("fault", LEFT_OUT)
def test_keys_that_do_not_count_leave_the_others_alone(fault: str) -> None:
    assert kids(LEFT_OUT[fault], jwk(EC, kid="good")) == ["good"]


def test_an_empty_set_is_a_set() -> None:
    assert parse(b'{"keys":[]}') == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b'{"keys":{}}', b'{"keys":null}', b"<html>", b"\xff\xfe", b'{"keys":[',
     b'{"keys":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
     json.dumps({"keys": [1] * (JWKS_KEYS_COUNT_MAX + 1)}).encode()],
    ids=lambda data: str(data[:20]),
)  # fmt: skip
def test_what_is_no_key_set(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="jwks: must"):
        parse(data)


def test_keys_compare_by_value() -> None:
    assert parse(key_set(jwk(RSA, kid="a"))) == parse(key_set(jwk(RSA, kid="a", use="sig")))
    assert JwksKey("a", "RS256", b"") != JwksKey("a", "ES256", b"")


@pytest.mark.parametrize(
    "url",
    ["https://id.example.com/jwks", "https://id.example.com:8443/a/b?c=d", "https://127.0.0.1/", "https://[::1]/"],
)
def test_where_keys_may_come_from(url: str) -> None:
    assert check_url(url, plain_loopback=False) == url


LOOPBACK = ["http://127.0.0.1:8080/jwks", "http://localhost/jwks", "http://[::1]:9/jwks", "http://127.9.9.9/"]


@pytest.mark.parametrize("url", LOOPBACK)
def test_plain_http_is_for_this_machine_and_where_a_setting_says_so(url: str) -> None:
    assert check_url(url, plain_loopback=True) == url
    with pytest.raises(InvalidInput, match="jwks_url: must be https"):
        check_url(url, plain_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "", "id.example.com", "https://", "https:///jwks", "ftp://id.example.com/", "file:///etc/passwd",
        "http://id.example.com/jwks", "http://127.0.0.1.example.com/", "http://localhost.example.com/",
        "http://10.0.0.1/", "https://user:secret@id.example.com/", "https://@id.example.com/", "https://x/#fragment",
        "https://x:99999/", "https://[::1/", "https://x/a b", "https://x/\n", "https://ä.example/",
        "https://x/" + "a" * JWKS_URL_CHARS_MAX,
    ],
)  # fmt: skip
def test_where_they_may_not(url: str) -> None:
    with pytest.raises(InvalidInput, match="jwks_url: must be https") as refusal:
        check_url(url, plain_loopback=True)
    assert "secret" not in str(refusal.value)
