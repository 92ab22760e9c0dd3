"""Verifying a token, per algorithm: `PyJWT` (jwt.decode with the same claims required), `verify` (Keys.verify of a
token it has not seen, remembering it included) and `remembered` (of one it has).
"""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bench.micro.part import Part, each, timed
from gateway.tokens import Identity, Keys
from notification.limits import TOKEN_LEEWAY_S, VERIFIED_TOKENS_COUNT_MAX
from notification.messages import EdgeKey, EdgeTenant

TOKENS_COUNT_MAX: Final = VERIFIED_TOKENS_COUNT_MAX // 2  # as many are surely remembered
_SECRET: Final = b"0123456789abcdef0123456789abcdef"
_ISSUER, _AUDIENCE, _TENANT = "herald:demo", "herald", "demo"


def signers() -> dict[str, tuple[Any, bytes]]:
    """Per algorithm what signs, and the key as an edge snapshot has it."""
    private: dict[str, Any] = {
        "RS256": rsa.generate_private_key(public_exponent=65_537, key_size=2_048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return {"HS256": (_SECRET, _SECRET)} | {
        name: (key, key.public_key().public_bytes(encoding, form)) for name, key in private.items()
    }


def mint(algorithm: str, key: Any, count: int, now_s: int) -> list[str]:
    """Tokens as identity providers make them: about 300 characters of HS256."""
    return [
        jwt.encode(
            {"iss": _ISSUER, "aud": _AUDIENCE, "iat": now_s, "exp": now_s + 3_600, "sub": f"auth0|{number:06}",
             "tid": _TENANT, "jti": str(uuid.uuid4()), "did": "phone"},
            key, algorithm=algorithm,
        ) for number in range(count)
    ]  # fmt: skip


def _pyjwt(algorithm: str, key: bytes) -> Callable[[str], object]:
    public: Any = _SECRET if algorithm == "HS256" else serialization.load_pem_public_key(key)
    options: Any = {"require": ["iss", "aud", "exp", "sub", "tid", "jti"]}

    def decode(text: str) -> object:
        return jwt.decode(
            text, public, algorithms=[algorithm], audience=_AUDIENCE, issuer=_ISSUER, leeway=TOKEN_LEEWAY_S,
            options=options,
        )  # fmt: skip

    return decode


def _part(algorithm: str, key: bytes, tokens: Sequence[str], now_s: int) -> Part:
    def texts() -> list[str]:
        """Each a text of its own, as a request brings it: nothing is hashed beforehand."""
        return [token.encode().decode() for token in tokens]

    def verifier(known: Sequence[str]) -> Callable[[str], object]:
        keys = Keys([EdgeTenant(_TENANT, "active", [], [EdgeKey(_ISSUER, _AUDIENCE, "", algorithm, key)])])
        for token in known:
            assert isinstance(keys.verify(token, now_s), Identity)
        return lambda text: keys.verify(text, now_s)

    decode = _pyjwt(algorithm, key)
    assert decode(tokens[0])
    return Part(f"token {algorithm}", {
        "PyJWT": timed(lambda: each(decode, texts()), len(tokens)),
        "verify": timed(lambda: each(verifier(tokens[:1]), texts()), len(tokens)),
        "remembered": timed(lambda: each(verifier(tokens), texts()), len(tokens)),
    })  # fmt: skip


def parts(count: int) -> list[Part]:
    """One per algorithm, `count` tokens a turn, at most TOKENS_COUNT_MAX."""
    now_s = int(time.time())
    return [
        _part(name, key, mint(name, private, min(count, TOKENS_COUNT_MAX), now_s), now_s)
        for name, (private, key) in signers().items()
    ]
