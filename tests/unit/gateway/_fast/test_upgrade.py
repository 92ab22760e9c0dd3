"""gateway/_fast/upgrade over the extension and its twin; over sockets: tests/flow/test_gateway_door.py."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import upgrade as extension
from notification.codes import Refusals
from notification.limits import HEADER_BYTES_MAX, HEADERS_COUNT_MAX
from tests.reference import upgrade as twin
from tests.unit.gateway._fast.extensions import both, is_extension

HOST = b"\r\nHost: h"
GOOD = (
    b"GET /ws/connect?device=d-1 HTTP/1.1\r\nHost: h:8081\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: 1\r\nx:\t\xfc "
)


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestHeadEnd:
    def test_the_end(self, module: Any) -> None:
        assert module.head_end(GOOD + b"\r\n\r\n") == len(GOOD) + 4
        assert module.head_end(bytearray(GOOD + b"\r\n\r\nrest\x00\n")) == len(GOOD) + 4
        assert module.head_end(b"") == module.head_end(GOOD) == module.head_end(GOOD + b"\r\n\r") == 0

    def test_chopped_at_every_byte(self, module: Any) -> None:
        data = GOOD + b"\r\n\r\n\x81\x80"
        for cut in range(len(data)):
            first = module.head_end(data[:cut])
            assert first == (len(GOOD) + 4 if cut >= len(GOOD) + 4 else 0)
            assert first or module.head_end(data, cut) == len(GOOD) + 4

    @pytest.mark.parametrize(
        "head",
        [
            b"\r\n", b"\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\rH", b"GET \x00", b"\x16\x03\x01", b"GET /\x7f",
            b"GET / HTTP/1.1\r\n\n", b"GET / HTTP/1.1\r\n\r\r", b"A: \x1b",
        ],
    )  # fmt: skip
    def test_wrong_bytes_are_refused_at_once(self, module: Any, head: bytes) -> None:
        assert module.head_end(head) == -module.MALFORMED
        assert module.head_end(head, len(head) - 1) == -module.MALFORMED

    def test_bounds(self, module: Any) -> None:
        most = b"G" * HEADER_BYTES_MAX
        assert module.head_end(most + b"\r\n\r\n") == HEADER_BYTES_MAX + 4
        assert module.head_end(most + b"G\r\n\r") == 0
        assert module.head_end(most + b"G\r\n\r\n") == -module.HEADERS_TOO_LARGE
        assert module.head_end(most + b"GGGGG") == -module.HEADERS_TOO_LARGE


@both(extension, twin)
class TestParse:
    def test_a_request(self, module: Any) -> None:
        assert module.parse(GOOD) == (
            "GET", "/ws/connect", "device=d-1",
            {
                "host": ["h:8081"], "upgrade": ["websocket"], "connection": ["keep-alive, Upgrade"],
                "sec-websocket-version": ["13"], "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
                "x": ["1", "ü"],
            },
        )  # fmt: skip
        assert module.parse(b"GET /?a?b HTTP/1.1\r\nHost:") == ("GET", "/", "a?b", {"host": [""]})

    def test_statuses_are_those_of_the_table(self, module: Any) -> None:
        ours = (module.MALFORMED, module.METHOD, module.HEADERS_TOO_LARGE)
        assert ours == (Refusals.MALFORMED[0], Refusals.METHOD[0], Refusals.HEADERS_TOO_LARGE[0])

    def test_bounds(self, module: Any) -> None:
        lines = HOST + b"".join(b"\r\nX%d: 1" % number for number in range(HEADERS_COUNT_MAX - 1))
        assert isinstance(module.parse(b"GET / HTTP/1.1" + lines), tuple)
        assert module.parse(b"GET / HTTP/1.1" + lines + b"\r\nY: 1") == module.HEADERS_TOO_LARGE
        assert module.parse(b"G" * (HEADER_BYTES_MAX + 1)) == module.HEADERS_TOO_LARGE

    @pytest.mark.parametrize("method", [b"POST", b"HEAD", b"get", b"CONNECT"])
    def test_other_methods(self, module: Any, method: bytes) -> None:
        assert module.parse(method + b" /ws/connect HTTP/1.1\r\nContent-Length: 3") == module.METHOD

    @pytest.mark.parametrize(
        "line",
        [
            b"", b"GET", b"GET /", b"GET / HTTP/1.0", b"GET / HTTP/2.0", b"GET / http/1.1", b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET h HTTP/1.1", b"GET http://h/ HTTP/1.1", b"GET * HTTP/1.1",
            b"GET /# HTTP/1.1", b"GET /\xfc HTTP/1.1", b"GET / x HTTP/1.1", b"G(T / HTTP/1.1", b"GET\t/\tHTTP/1.1",
        ],
    )  # fmt: skip
    def test_malformed_request_lines(self, module: Any, line: bytes) -> None:
        assert module.parse(line + HOST) == module.MALFORMED

    @pytest.mark.parametrize(
        "lines",
        [
            b"", b"\r\nHost: a\r\nHost: a", b"\r\nHost: a/b", b"\r\nHost: a b", b"\r\nHost: \xfc", b"\r\nHost : h",
            b"\r\n Host: h", HOST + b"\r\n folded", HOST + b"\r\n\tfolded", HOST + b"\r\nX", HOST + b"\r\n: x",
            HOST + b"\r\nX : y", HOST + b"\r\nX\xfc: y", HOST + b"\r\nX: \x00", HOST + b"\r\nX: a\rb",
            HOST + b"\r\nX: a\nY: b", HOST + b"\r\n", HOST + b"\r\nContent-Length: 5",
            HOST + b"\r\nContent-Length: 0\r\nContent-Length: 0", HOST + b"\r\nContent-Length: 0, 0",
            HOST + b"\r\nContent-Length: +0", HOST + b"\r\ncontent-length:",
            HOST + b"\r\nTransfer-Encoding: chunked", HOST + b"\r\ntransfer-encoding: identity",
            HOST + b"\r\nContent-Length: 0\r\nTransfer-Encoding: chunked",
        ],
    )  # fmt: skip
    def test_malformed_headers_and_smuggling(self, module: Any, lines: bytes) -> None:
        assert module.parse(b"GET / HTTP/1.1" + lines) == module.MALFORMED

    def test_an_empty_body_may_be_announced(self, module: Any) -> None:
        assert isinstance(module.parse(b"GET / HTTP/1.1" + HOST + b"\r\nContent-Length: 0"), tuple)


@both(extension, twin)
class TestAnswers:
    def test_the_accept_of_rfc_6455(self, module: Any) -> None:
        assert module.accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        with pytest.raises(ValueError, match=r"x|24"):
            module.accept("x" * 84)

    def test_switching(self, module: Any) -> None:
        assert module.switching("dGhlIHNhbXBsZSBub25jZQ==", "herald.v1") == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: herald.v1\r\n\r\n"
        )
        assert b"Protocol: " not in module.switching("dGhlIHNhbXBsZSBub25jZQ==", None)

    def test_answer(self, module: Any) -> None:
        assert module.answer(405, "Method Not Allowed", "text/plain", b"no\n", (("Allow", "GET"),)) == (
            b"HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
            b"Connection: close\r\nAllow: GET\r\n\r\nno\n"
        )


_PIECES = st.lists(
    st.sampled_from(
        [b"GET", b"POST", b" ", b"/a", b"?b", b"#", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r", b"\n", b"Host: h",
         b"X", b":", b"\t", b"\x00", b"\xfc", b"Content-Length: 0", b"Transfer-Encoding: x",
         b"GET / HTTP/1.1\r\nHost: h\r\n"]
    ),
    max_size=12,
).map(b"".join) | st.binary(max_size=60)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(_PIECES, st.data())
def test_extension_and_twin_agree(data: bytes, drawn: st.DataObject) -> None:
    end = extension.head_end(data)
    assert end == twin.head_end(data)
    assert extension.parse(data) == twin.parse(data)
    cut = drawn.draw(st.integers(0, len(data)))
    first = extension.head_end(data[:cut])
    assert (first or extension.head_end(data, cut)) == end


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80))
def test_sha1_is_that_of_hashlib(key: str) -> None:
    assert extension.accept(key) == twin.accept(key)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 5))
def test_they_agree_on_changes_of_a_good_request(at: int, put: bytes, cut: int) -> None:
    head = GOOD[:at] + put + GOOD[at + cut :]
    assert extension.parse(head) == twin.parse(head)
    assert extension.head_end(head + b"\r\n\r\n") == twin.head_end(head + b"\r\n\r\n")
