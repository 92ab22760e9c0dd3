"""A JSON Web Key Set (RFC 7517 §5) as keys that a gateway can use: which of its keys count, and where one may be.

Taken: public signature keys for RS256, ES256 and EdDSA. Left out: what is for another use, algorithm or curve, is
weak, secret, or half of a private key. A key's algorithm is its `alg`, else what its type stands for, and is pinned
(RFC 8725 §3.1).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from notification.errors import InvalidInput
from notification.limits import JWKS_KEYS_COUNT_MAX, JWKS_URL_CHARS_MAX, KID_CHARS_MAX
from notification.settings import is_web_address

_RSA_BITS_MIN: Final = 2_048  # RFC 7518 §3.3
_RSA_BITS_MAX: Final = 8_192  # above it a forged signature costs the gateway milliseconds
_RSA_EXPONENT_MIN: Final = 65_537  # FIPS 186-5 §A.1.1
_ALGORITHMS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}  # by `kty`
_READERS: Final[dict[str, Callable[[dict[str, Any]], object]]] = {
    "RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk,
}  # fmt: skip
_SECRET: Final = ("d", "k", "p", "q", "dp", "dq", "qi")  # RFC 7518 §6: members of private and symmetric keys


class JwksKey(NamedTuple):
    """`kid` "" = for tokens without kid; `pem`: SubjectPublicKeyInfo."""

    kid: str
    algorithm: str
    pem: bytes


class _KeySet(msgspec.Struct):
    keys: list[Any]


_decode: Final = msgspec.json.Decoder(_KeySet).decode


def parse(data: bytes) -> list[JwksKey]:
    """The keys that count, in order; of several with one kid the first. Raises InvalidInput: not a key set."""
    try:
        found = _decode(data).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("jwks", "must be a JSON object with a list of keys") from error
    if len(found) > JWKS_KEYS_COUNT_MAX:
        raise InvalidInput("jwks", f"must have at most {JWKS_KEYS_COUNT_MAX} keys")
    keys: dict[str, JwksKey] = {}
    for one in found:
        key = _key(one) if isinstance(one, dict) else None
        if key is not None:
            keys.setdefault(key.kid, key)
    return list(keys.values())


def _key(jwk: Mapping[str, Any]) -> JwksKey | None:
    kid, kty = jwk.get("kid", ""), jwk.get("kty")
    if not isinstance(kid, str) or len(kid) > KID_CHARS_MAX or "\0" in kid or not isinstance(kty, str):
        return None
    algorithm = _ALGORITHMS.get(kty)
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations or any(name in jwk for name in _SECRET):
        return None
    material = _material(kty, jwk)
    if material is None:
        return None
    return JwksKey(kid, algorithm, material.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _material(kty: str, jwk: Mapping[str, Any]) -> RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | None:
    try:
        key = _READERS[kty](dict(jwk))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):  # as many as there are broken members
        return None
    if isinstance(key, RSAPublicKey):
        sound = _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX and key.public_numbers().e >= _RSA_EXPONENT_MIN
        return key if sound else None
    if isinstance(key, EllipticCurvePublicKey):
        return key if key.curve.name == "secp256r1" else None
    return key if isinstance(key, Ed25519PublicKey) else None


def check_url(url: str, plain_loopback: bool) -> str:
    """`url` if keys may be fetched from there: https without a login; with `plain_loopback` also http from this
    machine. Raises InvalidInput."""
    if len(url) > JWKS_URL_CHARS_MAX or not is_web_address(url, plain_loopback):
        raise InvalidInput("jwks_url", "must be https://host[:port]/path, without a login or fragment")
    return url
