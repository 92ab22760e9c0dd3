"""Who a token says it is: JWT verification against the keys of the edge snapshot.

The algorithm belongs to the key, never to the token (RFC 8725 §3.1); the tenant in the token must be the
tenant that owns the issuer's key. PyJWT does the cryptography and the time claims.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import jwt
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from notification.codes import Refusal, Refusals
from notification.errors import InvalidInput
from notification.ids import check_token, check_user
from notification.limits import TOKEN_BYTES_MAX, TOKEN_LEEWAY_S
from notification.messages import EdgeKey, EdgeTenant

_log = structlog.get_logger("tokens")

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_REQUIRED: Final = ("iss", "aud", "exp", "sub", "tid", "jti")
_TYPES: Final = ("jwt", "at+jwt")
_HMAC_BYTES_MIN: Final = 32  # RFC 7518 §3.2: a key of at least the hash's size
_TIME_S_MAX: Final = 2**62
_EXPIRY_S_MAX: Final = 366 * 86_400  # a connection proves itself anew once a year at least
_RSA_BITS_MIN: Final = 2_048  # RFC 7518 §3.3

PublicKey = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class Identity(NamedTuple):
    """A verified token. `device` is its `did` claim or None; `expiry_s` the Unix time its connection ends."""

    tenant: str
    user: str
    device: str | None
    expiry_s: float


class _Key(NamedTuple):
    tenant: str
    audience: str
    algorithm: str
    material: PublicKey


class Keys:
    """Verification keys of one edge snapshot; immutable, replaced as a whole."""

    def __init__(self, tenants: Sequence[EdgeTenant]) -> None:
        self.tenants = {tenant.tenant: tenant for tenant in tenants}
        self._keys: dict[tuple[str, str], _Key] = {}
        for tenant in tenants:
            for key in tenant.keys:
                material = _prepare(key)
                if material is None:
                    _log.error("edge_key_unusable", tenant=tenant.tenant, issuer=key.issuer, kid=key.kid)
                    continue
                self._keys[key.issuer, key.kid] = _Key(tenant.tenant, key.audience, key.algorithm, material)
        self._issuers = {issuer for issuer, _ in self._keys}

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        """Is `origin` (an Origin header) on the tenant's list?"""
        known = self.tenants.get(tenant)
        return known is not None and origin in known.origins

    def suspended(self, tenant: str) -> bool:
        """Gone from the snapshot counts as suspended."""
        known = self.tenants.get(tenant)
        return known is None or known.status != "active"

    def verify(self, token: str, now_s: float) -> Identity | Refusal:
        """The identity, or UNAUTHENTICATED, SUSPENDED, or TENANT_UNKNOWN_YET: no key of that issuer here,
        which a newer snapshot may change. `now_s` is Unix time."""
        parts = _split(token)
        if parts is None:
            return Refusals.UNAUTHENTICATED
        header, claims = parts
        issuer, kid = claims.get("iss"), header.get("kid", "")
        if not isinstance(issuer, str) or not isinstance(kid, str):
            return Refusals.UNAUTHENTICATED
        key = self._keys.get((issuer, kid))
        if key is None:
            return Refusals.TENANT_UNKNOWN_YET
        if header.get("alg") != key.algorithm:
            return Refusals.UNAUTHENTICATED
        try:
            verified = jwt.decode(
                token, key.material, algorithms=[key.algorithm], audience=key.audience, issuer=issuer,
                leeway=TOKEN_LEEWAY_S, options={"require": list(_REQUIRED), "strict_aud": False},
            )  # fmt: skip
            identity = _identity(verified, now_s)
        except (jwt.PyJWTError, InvalidInput):
            return Refusals.UNAUTHENTICATED
        if identity.tenant != key.tenant:
            return Refusals.UNAUTHENTICATED
        if self.suspended(identity.tenant):
            return Refusals.SUSPENDED
        return identity


def _prepare(key: EdgeKey) -> PublicKey | None:
    """The key object of a pinned algorithm; None when the two do not fit or the key is weak."""
    if key.algorithm == "HS256":
        return key.key if len(key.key) >= _HMAC_BYTES_MIN else None
    try:
        material = load_pem_public_key(key.key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if key.algorithm == "RS256" and isinstance(material, RSAPublicKey):
        return material if material.key_size >= _RSA_BITS_MIN else None
    if key.algorithm == "ES256" and isinstance(material, EllipticCurvePublicKey):
        return material if material.curve.name == "secp256r1" else None
    if key.algorithm == "EdDSA" and isinstance(material, Ed25519PublicKey):
        return material
    return None


def _split(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Unverified header and claims of a compact JWS, base64url taken strictly; None if it is not one."""
    if len(token) > TOKEN_BYTES_MAX or _COMPACT.fullmatch(token) is None:
        return None
    header_text, claims_text, _ = token.split(".")
    header, claims = _object(header_text), _object(claims_text)
    if header is None or claims is None or "crit" in header or "b64" in header:
        return None
    if not all(_is_time(claims[name]) for name in ("exp", "nbf", "iat") if name in claims):
        return None
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        return None
    return header, claims


def _is_time(value: object) -> bool:
    """A NumericDate (RFC 7519 §2) that a clock can show; PyJWT stumbles over some others."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TIME_S_MAX


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = _object_decoder.decode(jwt.utils.base64url_decode(text))
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None
    return value


_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def _identity(claims: dict[str, Any], now_s: float) -> Identity:
    """Claims of a verified token. Raises InvalidInput."""
    for name in ("tid", "sub", "jti"):
        if not isinstance(claims[name], str) or not claims[name]:
            raise InvalidInput(name, "must be a string")
    device = claims.get("did")
    if device is not None:
        if not isinstance(device, str):
            raise InvalidInput("did", "must be a string")
        check_token(device, "did")
    expiry_s = min(float(claims["exp"]), now_s + _EXPIRY_S_MAX)
    if expiry_s <= now_s:  # accepted within the leeway: the connection lives for the rest of it
        expiry_s += TOKEN_LEEWAY_S
    tenant = sys.intern(check_token(claims["tid"], "tid"))  # one text for all connections of a tenant
    return Identity(tenant, check_user(claims["sub"], "sub"), device, expiry_s)
