"""gateway/_fast/proxy over the extension and its twin; over sockets: tests/flow/test_gateway_proxy.py."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._fast import proxy as extension
from notification.codes import Refusals
from notification.limits import PROXY_HEADER_BYTES_MAX
from tests.reference import proxy as twin
from tests.unit.gateway._fast.extensions import both, is_extension

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
IPV4 = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + b"\x30\x39\x01\xbb"
IPV6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + b"\x30\x39\x01\xbb"
LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + len(body).to_bytes(2, "big") + body


WHOLE = {
    LINE: "192.0.2.7",
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": "0.0.0.0",
    b"PROXY TCP6 2001:DB8::7 ::1 1 2\r\n": "2001:db8::7",
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n": "192.0.2.7",
    b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n":
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0",
    b"PROXY UNKNOWN\r\n": "",
    b"PROXY UNKNOWN ffff:f...f:ffff whatever\r\n": "",
    v2(1, 0x11, IPV4): "192.0.2.7",
    v2(1, 0x11, IPV4 + b"\x04\x00\x03abc"): "192.0.2.7",  # a TLV
    v2(1, 0x11, IPV4 + b"\xff" * (PROXY_HEADER_BYTES_MAX - 28)): "192.0.2.7",
    v2(1, 0x21, IPV6): "2001:db8::7",
    v2(1, 0x21, bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7]) + bytes(20)): "192.0.2.7",
    v2(1, 0x12, IPV4): "", v2(1, 0x22, IPV6): "", v2(1, 0x31, bytes(216)): "", v2(1, 0x32, bytes(216)): "",
    v2(1, 0x00, b""): "", v2(1, 0x00, b"anything"): "",
    v2(0, 0x00, b""): "", v2(0, 0x11, IPV4): "", v2(0, 0xFF, b"discarded"): "",
}  # fmt: skip

WRONG = [
    b"G", b"GET / HTTP/1.1\r\n\r\n", b"proxy ", b"PROXY\t", b"PROXYTCP4", b"\r\n\r\n\0\r\nQUIX",
    b"\r\n\r\nGET", b"\x16\x03\x01",
    b"PROXY\r\n", b"PROXY \r\n", b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    b"PROXY UNKNOWNX\r\n", b"PROXY TCP4\r\n", b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n",
    b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4 host 1 1\r\n", b"PROXY TCP4 ::1 ::1 1 1\r\n",
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP6 ::1%lo ::1 1 1\r\n", b"PROXY TCP6 [::1] ::1 1 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 123456\r\n",
    b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", b"PROXY TCP4 1.2.3.4\r1",
    b"PROXY UNKNOWN\r\r", b"PROXY UNKNOWN \xff", b"PROXY UNKNOWN \t",
    b"PROXY UNKNOWN " + b"x" * 93, b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", b"PROXY TCP6 " + b"1" * 96,
    SIGNATURE + b"\x11", SIGNATURE + b"\x22", SIGNATURE + b"\x01", SIGNATURE + b"\x31",
    v2(1, 0x11, IPV4[:-1]), v2(1, 0x21, IPV6[:-1]), v2(1, 0x31, bytes(215)), v2(1, 0x13, IPV4), v2(1, 0x10, IPV4),
    v2(1, 0x01, IPV4), v2(1, 0x41, bytes(300)),
    v2(1, 0x11, IPV4 + b"\0" * (PROXY_HEADER_BYTES_MAX - 27)), v2(0, 0x00, bytes(PROXY_HEADER_BYTES_MAX)),
]  # fmt: skip


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestParse:
    @pytest.mark.parametrize(("header", "source"), WHOLE.items())
    def test_whole_headers(self, module: Any, header: bytes, source: str) -> None:
        assert module.parse(header) == (len(header), source)
        assert module.parse(bytearray(header + b"GET / HTTP/1.1\r\n\r\n\0")) == (len(header), source)

    @pytest.mark.parametrize("header", [*WHOLE])
    def test_chopped_at_every_byte(self, module: Any, header: bytes) -> None:
        assert {module.parse(header[:cut]) for cut in range(len(header))} == {(0, "")}

    @pytest.mark.parametrize("data", WRONG)
    def test_what_cannot_become_a_header(self, module: Any, data: bytes) -> None:
        assert module.parse(data) == (-module.MALFORMED, "")
        assert module.parse(data + b"more\r\n") == (-module.MALFORMED, "")

    def test_a_wrong_size_is_told_before_it_has_come(self, module: Any) -> None:
        head = SIGNATURE + b"\x21\x11" + (PROXY_HEADER_BYTES_MAX - 15).to_bytes(2, "big")
        assert module.parse(head) == (-module.MALFORMED, "")

    def test_the_status_is_that_of_the_table(self, module: Any) -> None:
        assert Refusals.MALFORMED.status == module.MALFORMED


HEADERS = [LINE, b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", v2(1, 0x11, IPV4), v2(1, 0x21, IPV6), v2(0, 0, b"")]


@given(st.sampled_from(HEADERS), st.data(), st.binary(max_size=3), st.integers(0, 3))
def test_they_agree_on_changes_of_good_headers(header: bytes, data: Any, put: bytes, cut: int) -> None:
    at = data.draw(st.integers(0, len(header)))
    changed = header[:at] + put + header[at + cut :]
    assert extension.parse(changed) == twin.parse(changed)


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21"]), st.binary()
)
def test_they_agree_on_any_bytes(start: bytes, rest: bytes) -> None:
    assert extension.parse(start + rest) == twin.parse(start + rest)
