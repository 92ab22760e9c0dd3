"""Plain-Python twin of gateway/_fast/upgrade.pyx. From RFC 9112, RFC 6455 §4, upgrade.pyi; never in production."""

import base64
import hashlib
import re

from notification.limits import HEADER_BYTES_MAX, HEADERS_COUNT_MAX

MALFORMED, METHOD, HEADERS_TOO_LARGE = 400, 405, 431

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(r"[-._~%!$&'()*+,;=:\[\]0-9A-Za-z]*")
_WRONG = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n|\A\r\n", re.DOTALL)


def head_end(data: bytes, checked: int = 0) -> int:
    data = bytes(data)
    end = data.find(b"\r\n\r\n") + 4
    seen = data[: end if end >= 4 else None][: HEADER_BYTES_MAX + 4]
    wrong = _WRONG.search(seen)
    if wrong is not None:
        return -MALFORMED
    if end >= 4 and end <= HEADER_BYTES_MAX + 4:
        return end
    return -HEADERS_TOO_LARGE if len(data) > HEADER_BYTES_MAX + 4 else 0


def parse(head: bytes) -> tuple[str, str, str, dict[str, list[str]]] | int:
    first, *lines = head.split(b"\r\n")
    if len(head) > HEADER_BYTES_MAX or len(lines) > HEADERS_COUNT_MAX:
        return HEADERS_TOO_LARGE
    request = _REQUEST_LINE.fullmatch(first)
    fields = [_HEADER.fullmatch(line) for line in lines]
    if request is None or None in fields:
        return MALFORMED
    if request[1] != b"GET":
        return METHOD
    headers: dict[str, list[str]] = {}
    for field in fields:
        assert field is not None
        headers.setdefault(field[1].decode().lower(), []).append(field[2].decode("latin-1").strip(" \t"))
    hosts = headers.get("host", [])
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return MALFORMED
    if "transfer-encoding" in headers or headers.get("content-length", ["0"]) != ["0"]:
        return MALFORMED
    path, _, query = request[2].decode().partition("?")
    return "GET", path, query, headers


def accept(key: str) -> str:
    text = key.encode("ascii") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    if len(key) > 80:
        raise ValueError(key)
    return base64.b64encode(hashlib.sha1(text).digest()).decode()


def switching(key: str, subprotocol: str | None) -> bytes:
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {accept(key)}")
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def answer(status: int, phrase: str, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += ["Connection: close", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("ascii") + body
