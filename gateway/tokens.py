"""Who a token says it is: JWT verification against the keys of the edge snapshot.

The algorithm belongs to the key, never to the token (RFC 8725 §3.1); the tenant in the token must be the
tenant that owns the issuer's key. gateway/_fast/jwt takes the compact form apart, OpenSSL does the cryptography,
all policy is here. What was verified lately is remembered by the token's exact text; what may have changed since
is asked each time.
"""

import asyncio
import functools
import hmac
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway._fast import jwt
from notification.codes import Refusal, Refusals
from notification.errors import InvalidInput
from notification.ids import check_token, check_user
from notification.limits import (
    TOKEN_HEADERS_CHARS_MAX,
    TOKEN_HEADERS_COUNT_MAX,
    TOKEN_LEEWAY_S,
    VERIFIED_TOKENS_CHARS_MAX,
    VERIFIED_TOKENS_COUNT_MAX,
)
from notification.messages import EdgeKey, EdgeTenant

_log = structlog.get_logger("tokens")

_TYPES: Final = ("jwt", "at+jwt")  # RFC 7519 §5.1, RFC 9068 §2.1; in lower case
_HMAC_BYTES_MIN: Final = 32  # RFC 7518 §3.2: a key of at least the hash's size
_RSA_BITS_MIN: Final = 2_048  # RFC 7518 §3.3
_ES256_BYTES: Final = 64  # RFC 7518 §3.4: R and S, 32 bytes each
_TIME_S_MAX: Final = 2**62
_EXPIRY_S_MAX: Final = 366 * 86_400  # a connection proves itself anew once a year at least
_PUBLIC_TEXT: Final = re.compile(rb"-----BEGIN |^(ssh-|ecdsa-)")  # a public key is no secret (RFC 8725 §2.1)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A verified token. `device` is its `did` claim or None; `expiry_s` the Unix time its connection ends;
    `issued_s` its `iat` as Unix time, None without one; `jti` is unique within `issuer`."""

    tenant: str
    user: str
    device: str | None
    expiry_s: float
    jti: str
    issued_s: float | None
    issuer: str


class Asked(NamedTuple):
    """The AuthService was asked about a token: what `answer` brings is how it is judged."""

    answer: "asyncio.Future[Identity | Refusal]"

    def then(self, told: Callable[[Identity | Refusal], None]) -> None:
        """Call `told` once the answer is here, never within this call."""

        def answered(answer: "asyncio.Future[Identity | Refusal]") -> None:
            told(Refusals.AUTH_UNAVAILABLE if answer.cancelled() else answer.result())

        self.answer.add_done_callback(answered)


class _Key(NamedTuple):
    """A usable key. The object itself is its version: a snapshot that has the key unchanged has the same object."""

    name: tuple[str, str]  # issuer, kid
    tenant: str
    source: EdgeKey
    material: Any
    holds: Callable[[Any, bytes, bytes], bool]  # (material, signature, signed)


class _Verified(msgspec.Struct, frozen=True, gc=False):
    """A token that was verified: good from `from_s` (Unix time) to `identity.expiry_s`, while `key` is a key."""

    identity: Identity
    key: _Key
    from_s: float


class Keys:
    """Verification keys of one edge snapshot; immutable once in use, replaced as a whole.

    `previous`: the snapshot before. Keys that did not change and tokens verified by them are taken over.
    """

    def __init__(self, tenants: Sequence[EdgeTenant], previous: "Keys | None" = None) -> None:
        self.tenants: dict[str, EdgeTenant] = {}  # without their keys
        self._keys: dict[tuple[str, str], _Key] = {}
        self.extend(tenants, previous)
        self._headers: jwt.Recent[_Header] = (
            previous._headers if previous is not None
            else jwt.Recent(TOKEN_HEADERS_COUNT_MAX, TOKEN_HEADERS_CHARS_MAX)
        )  # fmt: skip
        self._verified: jwt.Recent[_Verified] = (
            previous._verified if previous is not None
            else jwt.Recent(VERIFIED_TOKENS_COUNT_MAX, VERIFIED_TOKENS_CHARS_MAX)
        )  # fmt: skip

    def extend(self, tenants: Sequence[EdgeTenant], previous: "Keys | None" = None) -> None:
        """The next page of the snapshot, before it is in use: preparing a key can take 50 µs, all of them too long
        for one turn of the loop."""
        known = previous._keys if previous is not None else {}
        for tenant in tenants:
            self.tenants[tenant.tenant] = msgspec.structs.replace(tenant, keys=[])
            for source in tenant.keys:
                key = known.get((source.issuer, source.kid))
                if key is None or key.source != source or key.tenant != tenant.tenant:
                    key = _prepare(tenant.tenant, source)
                if key is None:
                    _log.error("edge_key_unusable", tenant=tenant.tenant, issuer=source.issuer, kid=source.kid)
                    continue
                self._keys[key.name] = key

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
        which a newer snapshot may change. `now_s` is Unix time. Revocation is the caller's question."""
        verified = self._verified.get(token)
        if (
            verified is None
            or not verified.from_s <= now_s < verified.identity.expiry_s
            or self._keys.get(verified.key.name) is not verified.key
        ):
            outcome = self._verify(token, now_s)
            if isinstance(outcome, Refusal):
                return outcome
            verified = outcome
        identity = verified.identity
        return Refusals.SUSPENDED if self.suspended(identity.tenant) else identity

    def vouched(self, claims: "Claims", now_s: float) -> Identity | Refusal:
        """What verify() says of a token with these claims that somebody else verified: TENANT_UNKNOWN_YET means
        that nobody has registered the issuer here."""
        keys = self._issuers.get(claims.iss, ())
        if not keys:
            return Refusals.TENANT_UNKNOWN_YET
        if _from_s(claims, now_s) is not None:
            for key in keys:
                identity = _identity(claims, key, now_s)
                if identity is not None:
                    return Refusals.SUSPENDED if self.suspended(identity.tenant) else identity
        return Refusals.UNAUTHENTICATED

    @functools.cached_property
    def _issuers(self) -> "dict[str, list[_Key]]":
        """A key for each tenant and audience of an issuer. Made when asked for: only an AuthService needs it."""
        found: dict[tuple[str, str, str], _Key] = {}
        for key in self._keys.values():
            found.setdefault((key.source.issuer, key.tenant, key.source.audience), key)
        issuers: dict[str, list[_Key]] = {}
        for (issuer, _, _), key in found.items():
            issuers.setdefault(issuer, []).append(key)
        return issuers

    def _verify(self, token: str, now_s: float) -> _Verified | Refusal:
        parts = jwt.split(token)
        if parts is None:
            return Refusals.UNAUTHENTICATED
        header_text, claims_text, signed, signature = parts
        known = self._headers.get(header_text)
        header = known or _header(header_text)
        claims = read_claims(claims_text)
        from_s = None if claims is None else _from_s(claims, now_s)
        if header is None or claims is None or from_s is None:
            return Refusals.UNAUTHENTICATED
        key = self._keys.get((claims.iss, header.kid))
        if key is None:
            return Refusals.TENANT_UNKNOWN_YET
        if header.alg != key.source.algorithm or not key.holds(key.material, signature, signed):
            return Refusals.UNAUTHENTICATED
        identity = _identity(claims, key, now_s)
        if identity is None:
            return Refusals.UNAUTHENTICATED
        # Only what a key of ours signed is remembered: forged tokens cannot crowd out good ones.
        if known is None:
            self._headers.put(header_text, header)
        verified = _Verified(identity, key, from_s)
        self._verified.put(token, verified)
        return verified


# --- keys -------------------------------------------------------------------
def _prepare(tenant: str, source: EdgeKey) -> _Key | None:
    """The key, ready to verify with; None when it does not fit its pinned algorithm, is weak, or is for no audience
    or issuer in particular."""
    if source.algorithm not in _ALGORITHMS or not source.issuer or not source.audience:
        return None
    fits, holds = _ALGORITHMS[source.algorithm]
    material = source.key if source.algorithm == "HS256" else _public_key(source.key)
    if not fits(material):
        return None
    # One text for all connections of a tenant.
    return _Key((source.issuer, source.kid), sys.intern(tenant), source, material, holds)


def _public_key(pem: bytes) -> object:
    try:
        return load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _is_secret(material: object) -> bool:
    return (
        isinstance(material, bytes) and len(material) >= _HMAC_BYTES_MIN and _PUBLIC_TEXT.search(material) is None
    )


def _hs256(secret: bytes, signature: bytes, signed: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(secret, signed, "sha256"), signature)


def _rs256(key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, _PKCS1, _SHA256)
    except InvalidSignature:
        return False
    return True


def _es256(key: EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    if len(signature) != _ES256_BYTES:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, _ECDSA)
    except InvalidSignature:
        return False
    return True


def _eddsa(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


_SHA256: Final = SHA256()
_PKCS1: Final = PKCS1v15()
_ECDSA: Final = ECDSA(_SHA256)
# Per algorithm: which key is fit for it, and whether (key, signature, signed) holds.
_ALGORITHMS: Final[dict[str, tuple[Callable[[Any], bool], Callable[[Any, bytes, bytes], bool]]]] = {
    "HS256": (_is_secret, _hs256),
    "RS256": (lambda key: isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS_MIN, _rs256),
    "ES256": (lambda key: isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1", _es256),
    "EdDSA": (lambda key: isinstance(key, Ed25519PublicKey), _eddsa),
}


def claimed_issuer(token: str) -> str | None:
    """The `iss` of a token that nobody verified; None if it is none of the right form."""
    parts = jwt.split(token)
    claims = None if parts is None else read_claims(parts[1])
    return None if claims is None else claims.iss


# --- header and claims ------------------------------------------------------
class _Header(msgspec.Struct, frozen=True, gc=False):
    """A JOSE header (RFC 7515 §4.1). What it says of keys (`jwk`, `jku`, `x5u`, `x5c`) is not looked at (RFC 8725
    §3.10). `crit` and `b64` ask for what we do not do: a header that has one is refused (RFC 7515 §4.1.11)."""

    alg: str
    typ: str = "JWT"
    kid: str = ""
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims that count (RFC 7519 §4.1, and `tid` and `did` of ours); those without a value here are required.
    Times are NumericDates: Unix seconds."""

    iss: str
    aud: str | list[str]
    exp: int | float
    sub: str
    tid: str
    jti: str
    did: str | None = None
    nbf: int | float = 0
    iat: int | float | msgspec.UnsetType = msgspec.UNSET


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_claims: Final = msgspec.json.Decoder(Claims).decode


def _header(text: str) -> _Header | None:
    """A header in base64url; None if it is none that we take."""
    decoded = jwt.base64url(text)
    if decoded is None:
        return None
    try:
        header = _decode_header(decoded.decode())
        distinct = _distinct(decoded)
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None
    if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        return None
    return header if distinct and header.typ.lower() in _TYPES else None


def read_claims(text: bytes) -> Claims | None:
    """The claims of a JSON object, with the right types, not verified; None if they are not."""
    try:
        claims = _decode_claims(text.decode())  # msgspec does not look at the UTF-8 of what it skips
        return claims if _distinct(text) else None
    except (ValueError, RecursionError):
        return None


def _distinct(text: bytes) -> bool:
    """Does a JSON object name nothing twice (RFC 7519 §4)? Raises ValueError, RecursionError."""
    if jwt.distinct(text):
        return True
    pairs = json.loads(text, object_pairs_hook=list)
    return len(pairs) == len({name for name, _ in pairs})


def _from_s(claims: Claims, now_s: float) -> float | None:
    """Since when a token is good (Unix time) if it is now by RFC 7519 §4.1.4-6, else None. The last second of a
    fractional `exp` is not granted."""
    first_s, from_s = claims.nbf, claims.nbf if claims.iat is msgspec.UNSET else claims.iat
    if first_s > from_s:
        first_s, from_s = from_s, first_s
    if not -_TIME_S_MAX < first_s <= from_s <= now_s + TOKEN_LEEWAY_S:
        return None
    return from_s - TOKEN_LEEWAY_S if now_s - TOKEN_LEEWAY_S < int(claims.exp) < _TIME_S_MAX else None


def _identity(claims: Claims, key: _Key, now_s: float) -> Identity | None:
    """Claims that `key`, or an AuthService for its issuer, vouches for and whose times hold; None if they are not
    an identity of ours."""
    audience = key.source.audience
    if claims.aud != audience and not (isinstance(claims.aud, list) and audience in claims.aud):
        return None
    if claims.tid != key.tenant or not claims.jti:
        return None
    try:
        user = check_user(claims.sub, "sub")
        device = None if claims.did is None else check_token(claims.did, "did")
    except InvalidInput:
        return None
    expiry_s = float(int(claims.exp))
    if expiry_s <= now_s:  # accepted within the leeway: the connection lives for the rest of it
        expiry_s += TOKEN_LEEWAY_S
    elif expiry_s > now_s + _EXPIRY_S_MAX:
        expiry_s = now_s + _EXPIRY_S_MAX
    issued_s = None if claims.iat is msgspec.UNSET else float(claims.iat)
    return Identity(key.tenant, user, device, expiry_s, claims.jti, issued_s, key.source.issuer)
