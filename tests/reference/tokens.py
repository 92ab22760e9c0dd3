"""What PyJWT says of a token, and why gateway/tokens.py may be stricter: the reference of the differential tests.

`check` holds one token against it; `check_bytes` makes a token of any bytes first, for a fuzzer to drive.
"""

import base64
import json
import re
import time
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.tokens import Identity, Keys
from notification.codes import Refusals
from notification.limits import TOKEN_BYTES_MAX, TOKEN_LEEWAY_S
from notification.messages import EdgeKey, EdgeTenant

ISSUER, AUDIENCE, TENANT = "iss", "herald", "acme"
SECRET: Final = b"0123456789abcdef0123456789abcdef"
RSA: Final = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC: Final = ec.generate_private_key(ec.SECP256R1())
ED: Final = ed25519.Ed25519PrivateKey.generate()
# kid -> (algorithm, what signs, what verifies)
SIGNERS: Final[dict[str, tuple[str, Any, Any]]] = {
    "": ("HS256", SECRET, SECRET),
    "rsa": ("RS256", RSA, RSA.public_key()),
    "ec": ("ES256", EC, EC.public_key()),
    "ed": ("EdDSA", ED, ED.public_key()),
}
_ALGORITHMS: Final = jwt.algorithms.get_default_algorithms()


def public_pem(key: Any) -> bytes:
    """The public half of a private key, as an edge snapshot has it."""
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def snapshot() -> list[EdgeTenant]:
    """One tenant whose issuer has a key of each algorithm."""
    keys = [
        EdgeKey(ISSUER, AUDIENCE, kid, algorithm, SECRET if algorithm == "HS256" else public_pem(private))
        for kid, (algorithm, private, _) in SIGNERS.items()
    ]
    return [EdgeTenant(TENANT, "active", [], keys)]


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: bytes, claims: bytes, kid: str) -> str:
    """Any two texts as a compact JWS, signed by the key of `kid`."""
    algorithm, private, _ = SIGNERS[kid]
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(_ALGORITHMS[algorithm].sign(signed.encode(), private))}"


def header_of(signer: str, **changes: Any) -> dict[str, Any]:
    """The header that goes with the key of a kid."""
    named = {"kid": signer} if signer else {}
    return {"typ": "JWT", "alg": SIGNERS[signer][0], **named, **changes}


def claims_of(**changes: Any) -> dict[str, Any]:
    """Claims that are good for an hour; a change to None leaves the claim out."""
    values = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "a|b", "tid": TENANT, "jti": "1", "exp": int(time.time()) + 3_600,
        **changes,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def by_pyjwt(token: str) -> dict[str, Any] | None:
    """The claims that PyJWT verified with the key of their issuer and kid; None if it refuses."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
        kid, issuer = header.get("kid", ""), claims.get("iss")
        if issuer != ISSUER or kid not in SIGNERS:
            return None
        verified: dict[str, Any] = jwt.decode(
            token, SIGNERS[kid][2], algorithms=[SIGNERS[kid][0]], audience=AUDIENCE, issuer=ISSUER,
            leeway=TOKEN_LEEWAY_S, options={"require": ["iss", "aud", "exp", "sub"]},
        )  # fmt: skip
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return verified


def stricter(token: str) -> str | None:
    """Of a token that PyJWT takes: the rule of ours that refuses it; None if none does."""
    if len(token) > TOKEN_BYTES_MAX:
        return "at most TOKEN_BYTES_MAX characters"
    if "=" in token:
        return "no padding (RFC 7515 §2)"
    values = []
    for part in token.split(".")[:2]:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        try:
            pairs = json.loads(text.decode("utf-8"), object_pairs_hook=list, parse_constant=int)
            json.dumps(pairs, ensure_ascii=False).encode("utf-8")
        except ValueError:
            return "JSON as RFC 8259 has it: UTF-8, no NaN, no half of a surrogate pair"
        if len({name for name, _ in pairs}) < len(pairs):
            return "no name twice (RFC 7519 §4)"
        values.append(json.loads(text))
    return _strict_header(values[0]) or _strict_claims(values[1])


def _strict_header(header: dict[str, Any]) -> str | None:
    if "crit" in header or "b64" in header:
        return "no extensions (RFC 7515 §4.1.11)"
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in ("jwt", "at+jwt"):
        return "typ is JWT or at+jwt (RFC 8725 §3.11)"
    return None


def _strict_claims(claims: dict[str, Any]) -> str | None:
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name, 0)
        if type(value) not in (int, float) or abs(value) >= 2**62:
            return "times are numbers that a clock can show"
    if claims.get("tid") != TENANT:
        return "tid is the tenant of the issuer"
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        return "a jti"
    if re.fullmatch("(?!tenant$|segment:)[!-~]{1,128}", claims["sub"]) is None:
        return "sub is a user id"
    device = claims.get("did", "none")
    if device is not None and (not isinstance(device, str) or re.fullmatch("[A-Za-z0-9_-]{1,64}", device) is None):
        return "did is a device id"
    return None


def check(keys: Keys, token: str, now_s: float | None = None) -> bool:
    """Hold `keys` of snapshot() against PyJWT on one token, twice. True: it is good. Raises AssertionError."""
    now_s = time.time() if now_s is None else now_s
    outcome = keys.verify(token, now_s)
    claims = by_pyjwt(token)
    reason = stricter(token) if claims is not None else None
    assert keys.verify(token, now_s) == outcome, "what is remembered is another verdict"
    if claims is None or reason is not None:
        assert outcome in (Refusals.UNAUTHENTICATED, Refusals.TENANT_UNKNOWN_YET), (token, reason)
        return False
    assert isinstance(outcome, Identity), token
    assert (outcome.tenant, outcome.user, outcome.jti) == (claims["tid"], claims["sub"], claims["jti"])
    issued_s = float(claims["iat"]) if "iat" in claims else None
    assert (outcome.device, outcome.issued_s, outcome.issuer) == (claims.get("did"), issued_s, ISSUER)
    assert now_s < outcome.expiry_s <= max(claims["exp"], now_s + TOKEN_LEEWAY_S)
    return True


def check_bytes(keys: Keys, data: bytes) -> bool:
    """check() of a token made of any bytes: the first byte says how, the rest is the material.

    0: the text itself; 1: claims, signed by HS256; 2: a header, signed so; else a good token of one of the keys
    with the bytes at three positions replaced, repeated or cut."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        return check(keys, rest.decode("latin-1"))
    if kind == b"\1":
        return check(keys, sign(json.dumps(header_of("")).encode(), rest, ""))
    if kind == b"\2":
        return check(keys, sign(rest, json.dumps(claims_of()).encode(), ""))
    kid = list(SIGNERS)[(kind[0] if kind else 0) % len(SIGNERS)]
    token = sign(json.dumps(header_of(kid)).encode(), json.dumps(claims_of()).encode(), kid)
    for at in range(0, min(len(rest), 12) - 3, 4):
        place = int.from_bytes(rest[at : at + 2], "big") % (len(token) + 1)
        count, change = rest[at + 2] % 4, chr(rest[at + 3])
        token = token[:place] + change * (count % 3) + token[place + count :]
    return check(keys, token)
