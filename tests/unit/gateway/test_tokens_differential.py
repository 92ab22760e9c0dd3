"""gateway/tokens.py against PyJWT: the same verdict on every token, but for the rules that are stricter here, each
named in tests/reference/tokens.py. Never is a token taken that PyJWT refuses."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tokens import Keys
from tests.reference import tokens as reference

KEYS = Keys(reference.snapshot())
KIDS = st.sampled_from(list(reference.SIGNERS))
NOW_S = int(time.time())
HOUR_S = 3_600


def repeatable(examples: int) -> settings:
    """The same examples in each run; a fuzzer goes further by check_bytes."""
    return settings(max_examples=examples, deadline=None, derandomize=True)


def good(kid: str, **claims: Any) -> str:
    header = json.dumps(reference.header_of(kid))
    return reference.sign(header.encode(), json.dumps(reference.claims_of(**claims)).encode(), kid)


def test_good_tokens_are_good_to_both() -> None:
    for kid in reference.SIGNERS:
        assert reference.check(KEYS, good(kid, did="d", iat=NOW_S))


@st.composite
def edits(draw: st.DrawFn, text: str) -> str:
    """A few small changes anywhere in a text."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        put = draw(st.sampled_from(["", "A", "_", "=", ".", "/", " ", "\n", "\0", "é", "€", "=="]))
        text = text[:place] + put + text[place + draw(st.integers(0, 2)) :]
    return text


@repeatable(400)
@given(KIDS, st.data())
def test_changed_texts(kid: str, data: st.DataObject) -> None:
    reference.check(KEYS, data.draw(edits(good(kid))))


@repeatable(200)
@given(KIDS, KIDS)
def test_headers_claims_and_signatures_of_different_tokens(one: str, other: str) -> None:
    first, second = good(one), good(other, sub="eve")
    parts = list(zip(first.split("."), second.split("."), strict=True))
    for choice in range(8):
        reference.check(KEYS, ".".join(pair[choice >> place & 1] for place, pair in enumerate(parts)))


VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.5, NOW_S + HOUR_S, NOW_S + HOUR_S + 0.5, NOW_S - HOUR_S, 2**53, 2**62, -(2**62),
     10**30, float("nan"), float("inf"), -float("inf"), "", "a", str(NOW_S + HOUR_S), "herald", "not-herald", "JWT",
     "at+jwt", "JWE", "HS256", "HS512", "RS256", "ES256", "EdDSA", "none", "rsa", "ec", "x" * 65, "x" * 129, "a b",
     "é", "\ud800", "acme", "iss", [], ["herald"], ["a", "herald"], ["herald", 1], ["exp"], {}, {"a": 1}]
)  # fmt: skip
CLAIMS = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "tid", "jti", "did", "other", "é"])
HEADERS = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5u", "cty", "zip"])
ABSENT = object()
CHANGES = st.one_of(VALUES, st.just(ABSENT))


def changed(values: dict[str, Any], changes: dict[str, Any], ascii_only: bool) -> bytes:
    kept = {name: value for name, value in (values | changes).items() if value is not ABSENT}
    return json.dumps(kept, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@repeatable(400)
@given(
    KIDS, st.dictionaries(HEADERS, CHANGES, max_size=2), st.dictionaries(CLAIMS, CHANGES, max_size=3), st.booleans()
)
def test_changed_headers_and_claims(
    kid: str, header: dict[str, Any], claims: dict[str, Any], ascii_only: bool
) -> None:
    token = reference.sign(
        changed(reference.header_of(kid), header, ascii_only),
        changed(reference.claims_of(), claims, ascii_only),
        kid,
    )
    reference.check(KEYS, token)


JSON_EDITS = [
    *'"\\{}[]:, 0e.-\0é',
    "",
    '"exp":1,',
    '"did":"d",',
    '"\\u0065xp":1,',
    "\\u0061",
    "\\ud800",
    "NaN",
    "1e999",
]


@repeatable(400)
@given(st.data())
def test_changed_json(data: st.DataObject) -> None:
    texts = [json.dumps(reference.header_of("")), json.dumps(reference.claims_of(did="e"), separators=(",", ":"))]
    which = data.draw(st.integers(0, 1))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(texts[which])))
        put = data.draw(st.sampled_from(JSON_EDITS))
        texts[which] = texts[which][:place] + put + texts[which][place + data.draw(st.integers(0, 1)) :]
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]))
    encoded = [text.encode("utf-8") for text in texts]
    encoded[which] = texts[which].encode(encoding)
    reference.check(KEYS, reference.sign(encoded[0], encoded[1], ""))


@repeatable(400)
@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    reference.check_bytes(KEYS, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0e30.e30.AA",
        b"\1{}",
        b"\2{}",
        b'\2{"alg":"HS256"}',
        b"\3",
        b"\4\0\0\1A",
        b"\7\xff\xff\3=\0\0\2.",
    ],
    ids=repr,
)
def test_the_entry_of_a_fuzzer(data: bytes) -> None:
    good = reference.check_bytes(KEYS, data)
    assert good == (data in (b'\2{"alg":"HS256"}', b"\3", b""))
