"""gateway/_fast/jwt over the extension and its twin; what tokens mean: tests/unit/gateway/test_tokens.py."""

import base64
import json
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import jwt as extension
from notification.limits import TOKEN_BYTES_MAX
from tests.reference import jwt as twin
from tests.unit.gateway._fast.extensions import both, is_extension

# RFC 7515 appendix A.1.1.
RFC_HEADER = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
RFC_SIGNATURE = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestBase64url:
    def test_rfc_7515(self, module: Any) -> None:
        assert module.base64url(RFC_HEADER) == b'{"typ":"JWT",\r\n "alg":"HS256"}'
        assert module.base64url(RFC_SIGNATURE)[:6].hex() == "7418dfb49799"
        assert module.base64url("A-z_4ME") == bytes([3, 236, 255, 224, 193])  # RFC 7515 appendix C
        assert module.base64url("") == b""

    @pytest.mark.parametrize("count", range(70))
    def test_every_length(self, module: Any, count: int) -> None:
        data = random.Random(count).randbytes(count)
        assert module.base64url(encoded(data)) == data

    @pytest.mark.parametrize("text", ["A", "AAAAA", "AB", "A_", "AAB", "AA_", "AAAAAB", "AAAAAAB"])
    def test_bits_that_belong_to_no_byte(self, module: Any, text: str) -> None:
        assert module.base64url(text) is None

    @pytest.mark.parametrize("place", range(7))
    def test_bytes_outside_the_alphabet(self, module: Any, place: int) -> None:
        for code in {*range(0x180), 0x20AC, 0xD800, 0x1F600}:
            character = chr(code)
            text = "AAAAAAA"[:place] + character + "AAAAAAA"[place + 1 :]
            inside = character.isascii() and (character.isalnum() or character in "-_")
            if inside and place < 6:
                assert module.base64url(text) is not None
            elif not inside:
                assert module.base64url(text) is None

    @pytest.mark.parametrize(
        "text", ["AA==", "AA=", "AAA=", "AAAA=", "AAAA====", " AAAA", "AAAA\n", "AA\0A", "AAA+", "AAA/"]
    )
    def test_padding_blanks_and_the_other_alphabet(self, module: Any, text: str) -> None:
        assert module.base64url(text) is None


@both(extension, twin)
class TestSplit:
    def test_parts(self, module: Any) -> None:
        assert module.split("abc.e30.AQID") == ("abc", b"{}", b"abc.e30", b"\1\2\3")
        header, claims, signed, signature = module.split(f"{RFC_HEADER}.e30.{RFC_SIGNATURE}")
        assert (header, claims, signed) == (RFC_HEADER, b"{}", f"{RFC_HEADER}.e30".encode())
        assert len(signature) == 32

    @pytest.mark.parametrize(
        "token",
        [
            "", ".", "..", "...", "a", "a.b", "e30.e30", "e30.e30.", ".e30.AA", "e30..AA", "e30.e30.AA.AA",
            "e30.e30.AA.", ".e30.e30.AA", "e30.e30.A", "e30.e3.AA", "e30.e31.AA", "e30.e30.AB", "e=0.e30.AA",
            "e30.e30.AA==", "e30.e30=.AA", " e30.e30.AA", "e30.e30.AA\n", "e30.e30.AA\0", "e30.e 0.AA",
            "e30.e30.é", "é.e30.AA", "e30.é.AA", "e30.e30.\ud800", "\U0001f600.e30.AA", "e30\0.e30.AA",
        ],
        ids=ascii,
    )  # fmt: skip
    def test_what_is_no_compact_jws(self, module: Any, token: str) -> None:
        assert module.split(token) is None

    def test_size(self, module: Any) -> None:
        fits = "e30." + "A" * (TOKEN_BYTES_MAX - 8) + ".AAA"
        assert len(fits) == TOKEN_BYTES_MAX
        assert module.split(fits) is not None
        assert module.split("A" + fits) is None

    def test_a_text_and_nothing_else(self, module: Any) -> None:
        for wrong in (None, b"e30.e30.AA", 1):
            with pytest.raises(TypeError):
                module.split(wrong)


@both(extension, twin)
class TestDistinct:
    @pytest.mark.parametrize(
        "text",
        [
            "{}", ' {"a" : 1 , "b":2}\n', '{"a":{"a":1,"a":2},"b":[{"a":1},{"a":1}]}', '{"a":"a","b":"a:","c":":"}',
            r'{"a":"\"","b":"\\","c":"\"a\":1"}', '{"":1,"a":1,"aa":1}', '{"é":1,"e":2}', '{"a":[":",{}],"b":"}{"}',
        ],
    )  # fmt: skip
    def test_different_names(self, module: Any, text: str) -> None:
        assert module.distinct(text.encode()) is True

    @pytest.mark.parametrize(
        "text",
        [
            '{"a":1,"a":1}', '{"a":1,"b":{"c":[]},"a":2}', '{"":1,"":2}', '{"é":1,"é":2}', r'{"\u0061":1}',
            r'{"a\/b":1}', r'{"\"":1}', '{"exp":1,"jti":"exp","exp":2}',
        ],
    )  # fmt: skip
    def test_names_that_repeat_or_may(self, module: Any, text: str) -> None:
        assert module.distinct(text.encode()) is False

    def test_many_names_are_not_compared(self, module: Any) -> None:
        assert module.distinct(json.dumps({str(number): 1 for number in range(64)}).encode()) is True
        assert module.distinct(json.dumps({str(number): 1 for number in range(65)}).encode()) is False


@both(extension, twin)
class TestRecent:
    def test_values(self, module: Any) -> None:
        recent = module.Recent(10, 100)
        assert recent.get("a") is None
        value = object()
        recent.put("a", value)
        recent.put("b", 2)
        assert recent.get("a") is value
        assert recent.get("b") == 2
        recent.put("a", 3)
        assert (recent.get("a"), len(recent)) == (3, 2)

    def test_bounds(self, module: Any) -> None:
        recent = module.Recent(10, 1_000)
        for number in range(100):
            recent.put(str(number), number)
            assert len(recent) <= 10
            assert [recent.get(str(late)) for late in range(max(0, number - 4), number + 1)][-1] == number
        assert recent.get("0") is None

    def test_what_is_used_stays(self, module: Any) -> None:
        recent = module.Recent(10, 1_000)
        recent.put("used", True)
        for number in range(100):
            assert recent.get("used")
            recent.put(str(number), number)
        assert len(recent) <= 10

    def test_characters(self, module: Any) -> None:
        recent = module.Recent(1_000, 100)
        recent.put("x" * 51, 1)
        assert len(recent) == 0
        recent.put("x" * 50, 1)
        recent.put("y", 2)
        assert (recent.get("y"), len(recent)) == (2, 2)
        for number in range(100):
            recent.put(f"{number:010}", number)
            assert len(recent) <= 10
        assert recent.get("x" * 50) is None

    def test_the_same_text_again_costs_nothing(self, module: Any) -> None:
        recent = module.Recent(10, 20)
        for number in range(50):
            recent.put("a", number)
            recent.put("b", number)
        assert (recent.get("a"), recent.get("b"), len(recent)) == (49, 49, 2)

    def test_values_are_let_go(self, module: Any) -> None:
        value = object()
        before = sys.getrefcount(value)
        recent = module.Recent(4, 1_000)
        for number in range(50):
            recent.put(str(number), value)
        assert before < sys.getrefcount(value) <= before + 4
        for number in range(50, 60):
            recent.put(str(number), number)
        assert sys.getrefcount(value) == before


_CHARACTERS = st.sampled_from([*"ABab01-_=+/. \n\0", "é", "€", "\ud800"])


@settings(max_examples=500, deadline=None)
@given(st.lists(_CHARACTERS, max_size=40).map("".join) | st.binary(max_size=60).map(encoded))
def test_extension_and_twin_decode_alike(text: str) -> None:
    assert extension.base64url(text) == twin.base64url(text)
    assert extension.split(text) == twin.split(text)
    assert extension.split(f"e30.{text}.AA") == twin.split(f"e30.{text}.AA")


_NAMES = st.text(st.sampled_from('ab"\\{[:]}é\n'), max_size=3)
_JSON = st.recursive(
    st.none() | st.integers() | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(_NAMES, _JSON), max_size=6), st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_distinct_is_what_a_parser_would_say(pairs: list[tuple[str, Any]], ascii_only: bool, blank: str) -> None:
    members = [
        blank
        + json.dumps(name, ensure_ascii=ascii_only)
        + f"{blank}:{blank}"
        + json.dumps(value, ensure_ascii=ascii_only)
        for name, value in pairs
    ]
    text = ("{" + ",".join(members) + blank + "}").encode()
    names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
    assert extension.distinct(text) == twin.distinct(text)
    if extension.distinct(text):
        assert len(set(names)) == len(names)
    elif not any(set(json.dumps(name)) & {"\\"} for name in names):
        assert len(set(names)) < len(names)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_distinct_reads_no_further_than_the_text(text: bytes) -> None:
    assert extension.distinct(text) in (True, False)


@settings(deadline=None)
@given(
    st.integers(2, 8), st.integers(2, 40),
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", "a", "bb", "ccc", "dddd", "eeeee" * 3, "f" * 25]))),
)  # fmt: skip
def test_recent_and_its_twin_remember_alike(entries: int, chars: int, steps: list[tuple[bool, str]]) -> None:
    one: extension.Recent[int] = extension.Recent(entries, chars)
    other: twin.Recent[int] = twin.Recent(entries, chars)
    for number, (puts, key) in enumerate(steps):
        if puts:
            one.put(key, number)
            other.put(key, number)
        assert one.get(key) == other.get(key)
        assert len(one) == len(other) <= entries
