"""Tokens: taken apart as the twin does, and judged as PyJWT does, less what we are stricter in.

An input is `mode | header JSON | 0 | claims JSON | 0 | rest`. Mode 0 signs with the right key, 1 with the right key
under HS384, 2 with another key, 3 takes `rest` as the signature, 4 takes everything as the token's text; 5 leaves
it to the differential tests' own way of making tokens from bytes.
"""

import hashlib
import hmac

import msgspec

from fuzz.target import Target, same
from gateway._fast import jwt
from gateway.tokens import Keys
from tests.reference import jwt as twin
from tests.reference import tokens

_KEYS = Keys(tokens.snapshot())
_MODES = 6


def run(data: bytes) -> None:
    mode = data[0] % _MODES if data else 4
    if mode == 5:
        tokens.check_bytes(_KEYS, data[1:])
        return
    token = _token(mode, data[1:])
    same("split", jwt.split(token), twin.split(token))
    for part in token.split("."):
        same("base64url", jwt.base64url(part), twin.base64url(part))
    taken = jwt.split(token)
    if taken is not None and _is_object(taken[1]):
        same("distinct", jwt.distinct(taken[1]), twin.distinct(taken[1]))
    tokens.check(_KEYS, token)


def _token(mode: int, data: bytes) -> str:
    header, claims, rest = (*data.split(b"\0", 2), b"", b"")[:3]
    signed = f"{tokens.encoded(header)}.{tokens.encoded(claims)}"
    if mode == 4:
        return data.decode("latin-1")
    if mode == 3:
        return f"{signed}.{tokens.encoded(rest)}"
    key = tokens.SECRET[::-1] if mode == 2 else tokens.SECRET
    digest = hmac.digest(key, signed.encode(), hashlib.sha384 if mode == 1 else hashlib.sha256)
    return f"{signed}.{tokens.encoded(digest)}"


def _is_object(text: bytes) -> bool:
    """As a strict parser has it: of other bytes distinct() says nothing."""
    try:
        msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


_HEADER = b'{"alg":"HS256","typ":"JWT"}'
_CLAIMS = (
    b'{"iss":"iss","aud":"herald","exp":4000000000,"sub":"ann","tid":"acme","jti":"1","did":"phone",'
    b'"iat":1700000000,"nbf":1700000000}'
)
TARGET = Target(
    run,
    seeds=(
        b"\0" + _HEADER + b"\0" + _CLAIMS,
        b"\0" + _HEADER.replace(b"}", b',"kid":"rsa"}') + b"\0" + _CLAIMS.replace(b'"herald"', b'["x","herald"]'),
        b"\1" + _HEADER + b"\0" + _CLAIMS,
        b"\2" + _HEADER + b"\0" + _CLAIMS,
        b"\3" + _HEADER.replace(b"HS256", b"none") + b"\0" + _CLAIMS + b"\0",
        b"\4" + f"{tokens.encoded(_HEADER)}.{tokens.encoded(_CLAIMS)}.AAAA".encode(),
        b"\5\3\0\7\2x",
        b"\5\1" + _CLAIMS,
    ),
    words=(
        b'"alg":"none"', b'"alg":"HS384"', b'"alg":"RS256"', b'"kid":"ec"', b'"crit":["b64"]', b'"b64":false',
        b'"typ":',
        b'"iss":"evil"', b'"tid":"evil"', b'"aud":["herald"]', b'"exp":1e400', b'"exp":NaN', b"2000000000", b"-1",
        b'"exp":', b'"sub":"a b"', b'"jti":""', b'"did":null', b"9" * 30, b"\\ud800", b"\\u0000", b'{"a":',
        b"[" * 90, b"=", b"-_", b".", b'"\\u0069ss":"x"', b'{"iss":"x"}',
    ),
)  # fmt: skip
