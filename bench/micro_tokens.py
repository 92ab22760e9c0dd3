"""`python -m bench.micro_tokens [--json]`: what verifying a token costs, beside PyJWT.

Per algorithm three contestants: `pyjwt` (jwt.decode with the same claims required), `verify` (Keys.verify of a
token it has not seen, remembering it included) and `remembered` (of one it has). Each verifies every token PASSES
times a round, the contestants in random order; the ratio is taken within a round, because a machine drifts.
"""

import argparse
import json
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.tokens import Identity, Keys
from notification.limits import TOKEN_LEEWAY_S, VERIFIED_TOKENS_COUNT_MAX
from notification.messages import EdgeKey, EdgeTenant

TOKENS_COUNT: Final = 1_000  # as many are surely remembered
PASSES: Final = 5  # so that the quickest contestant's turn lasts some milliseconds
CONTESTANTS: Final = ("pyjwt", "verify", "remembered")
_SECRET: Final = b"0123456789abcdef0123456789abcdef"
_ISSUER, _AUDIENCE, _TENANT = "herald:demo", "herald", "demo"

assert TOKENS_COUNT * 2 <= VERIFIED_TOKENS_COUNT_MAX


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


def mint(algorithm: str, key: Any, now_s: int) -> list[str]:
    """TOKENS_COUNT tokens as identity providers make them: about 300 characters of HS256."""
    return [
        jwt.encode(
            {"iss": _ISSUER, "aud": _AUDIENCE, "iat": now_s, "exp": now_s + 3_600, "sub": f"auth0|{number:06}",
             "tid": _TENANT, "jti": str(uuid.uuid4()), "did": "phone"},
            key, algorithm=algorithm,
        ) for number in range(TOKENS_COUNT)
    ]  # fmt: skip


def measured_us(verify: Callable[[str], object], tokens: Sequence[str]) -> float:
    """CPU µs per token. Each is a text of its own, as a request brings it: nothing is hashed beforehand."""
    texts = [token.encode().decode() for token in tokens]
    started_ns = time.process_time_ns()
    for text in texts:
        verify(text)
    return (time.process_time_ns() - started_ns) / len(texts) / 1_000


def contestant(
    name: str, algorithm: str, key: bytes, tokens: Sequence[str], now_s: float
) -> Callable[[str], object]:
    """What verifies, warm as its name says. Raises AssertionError when it refuses a token."""
    if name == "pyjwt":
        public: Any = _SECRET if algorithm == "HS256" else serialization.load_pem_public_key(key)
        options: Any = {"require": ["iss", "aud", "exp", "sub", "tid", "jti"]}

        def decode(text: str) -> object:
            return jwt.decode(
                text, public, algorithms=[algorithm], audience=_AUDIENCE, issuer=_ISSUER, leeway=TOKEN_LEEWAY_S,
                options=options,
            )  # fmt: skip

        assert decode(tokens[0])
        return decode
    keys = Keys([EdgeTenant(_TENANT, "active", [], [EdgeKey(_ISSUER, _AUDIENCE, "", algorithm, key)])])
    for token in tokens if name == "remembered" else tokens[:1]:
        assert isinstance(keys.verify(token, now_s), Identity)
    return lambda text: keys.verify(text, now_s)


def run(rounds: int) -> dict[str, Any]:
    """The report: per algorithm and contestant CPU µs per token, and how many times faster than PyJWT."""
    now_s = int(time.time())
    made = {name: (key, mint(name, private, now_s)) for name, (private, key) in signers().items()}
    values: dict[tuple[str, str], list[float]] = {(name, who): [] for name in made for who in CONTESTANTS}
    for _ in range(rounds):
        for algorithm, who in random.sample(list(values), len(values)):
            key, tokens = made[algorithm]
            passes = (contestant(who, algorithm, key, tokens, now_s) for _ in range(PASSES))
            values[algorithm, who].append(statistics.mean(measured_us(verify, tokens) for verify in passes))
    figures = {}
    for (algorithm, who), costs in values.items():
        faster = [base / cost for base, cost in zip(values[algorithm, "pyjwt"], costs, strict=True)]
        figures[f"{algorithm} {who}"] = {**spread(costs), "values": costs, "faster": spread(faster)}
    return {"bench": "micro_tokens", "unit": "µs of CPU per token", "rounds": rounds, "figures": figures}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro_tokens", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    report = run(arguments.rounds)
    if arguments.json:
        json.dump(report, sys.stdout)
        print()
        return
    print(f"{report['unit']}, {report['rounds']} rounds: median (range); times faster than PyJWT: median (range)")
    for name, figure in report["figures"].items():
        faster = figure["faster"]
        print(
            f"{name:18} {figure['median']:7.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
            f"  {faster['median']:6.1f} ({faster['low']:.1f} to {faster['high']:.1f})"
        )


if __name__ == "__main__":
    main()
