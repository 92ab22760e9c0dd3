"""Tokens: what is signed right and says who it is gets in, what is not signed by us never does, nothing raises.

An input is `mode | header JSON | 0 | claims JSON | 0 | rest`. Mode 0 signs with the right key, 1 with the right key
under HS384, 2 with another key, 3 takes `rest` as the signature, 4 takes everything as the token's text.
"""

import base64
import hashlib
import hmac
import json
import time

from fuzz.target import Target
from gateway.tokens import Identity, Keys
from notification.codes import Refusals
from notification.ids import check_token, check_user
from notification.limits import TOKEN_LEEWAY_S
from notification.messages import EdgeKey, EdgeTenant

SECRET = b"0123456789abcdef0123456789abcdef"
_REFUSED = (Refusals.UNAUTHENTICATED, Refusals.SUSPENDED, Refusals.TENANT_UNKNOWN_YET)
_KEYS = Keys(
    [
        EdgeTenant("acme", "active", [], [EdgeKey("iss", "herald", kid, "HS256", SECRET) for kid in ("", "k")]),
        EdgeTenant("evil", "suspended", [], [EdgeKey("evil", "herald", "", "HS256", SECRET)]),
    ]
)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def run(data: bytes) -> None:
    mode = data[0] % 5 if data else 4
    header, claims, rest = (*data[1:].split(b"\0", 2), b"", b"")[:3]
    signed = f"{_text(header)}.{_text(claims)}"
    if mode == 4:
        token = data[1:].decode("latin-1")
    elif mode == 3:
        token = f"{signed}.{_text(rest)}"
    else:
        key = SECRET[::-1] if mode == 2 else SECRET
        digest = hashlib.sha384 if mode == 1 else hashlib.sha256
        token = f"{signed}.{_text(hmac.digest(key, signed.encode(), digest))}"
    now_s = time.time()
    found = _KEYS.verify(token, now_s)
    if not isinstance(found, Identity):
        assert found in _REFUSED, found
        return
    assert mode == 0 or _signed(token), "a token that nobody signed"
    said = json.loads(claims) if mode != 4 else json.loads(_raw(token.split(".")[1]))
    assert (found.tenant, found.user, found.device) == (said["tid"], said["sub"], said.get("did")), said
    assert check_token(found.tenant, "tid") == "acme"
    assert check_user(found.user, "sub")
    assert said["exp"] > now_s - TOKEN_LEEWAY_S
    assert found.expiry_s > now_s
    assert said["iss"] == "iss"
    assert said["aud"] == "herald" or "herald" in said["aud"]


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signed(token: str) -> bool:
    signed, _, signature = token.rpartition(".")
    return hmac.compare_digest(hmac.digest(SECRET, signed.encode(), "sha256"), _raw(signature))


_HEADER = b'{"alg":"HS256","typ":"JWT"}'
_CLAIMS = (
    b'{"iss":"iss","aud":"herald","exp":2000000060,"sub":"ann","tid":"acme","jti":"1","did":"phone",'
    b'"iat":1700000000,"nbf":1700000000}'
)
TARGET = Target(
    run,
    seeds=(
        b"\0" + _HEADER + b"\0" + _CLAIMS,
        b"\0" + _HEADER.replace(b"}", b',"kid":"k"}') + b"\0" + _CLAIMS.replace(b'"herald"', b'["x","herald"]'),
        b"\1" + _HEADER + b"\0" + _CLAIMS,
        b"\2" + _HEADER + b"\0" + _CLAIMS,
        b"\3" + _HEADER.replace(b"HS256", b"none") + b"\0" + _CLAIMS + b"\0",
        b"\4" + f"{_text(_HEADER)}.{_text(_CLAIMS)}.AAAA".encode(),
    ),
    words=(
        b'"alg":"none"', b'"alg":"HS384"', b'"alg":"RS256"', b'"kid":', b'"crit":["b64"]', b'"b64":false',
        b'"typ":', b'"iss":"evil"', b'"tid":"evil"', b'"aud":["herald"]', b'"exp":1e400', b'"exp":NaN',
        b"2000000000", b"-1", b'"exp":', b'"sub":"a b"', b'"jti":""', b'"did":null', b"9" * 30, b"\\ud800",
        b"\\u0000", b'{"a":', b"[" * 90, b"=", b"-_", b".",
    ),
)  # fmt: skip
