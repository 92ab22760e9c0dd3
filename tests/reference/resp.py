"""Plain-Python twin of gateway/_fast/resp.pyx. From the RESP 2 and 3 specifications and resp.pyi; never used in
production."""

import binascii
import re
from typing import Any

from notification.limits import REDIS_REPLY_BYTES_MAX, REDIS_REPLY_DEPTH_MAX

SLOTS_COUNT = 16_384

Argument = str | bytes | int


class ProtocolError(Exception):
    pass


class Refusal:
    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def code(self) -> str:
        return self.text.split(" ", 1)[0]

    def __repr__(self) -> str:
        return f"Refusal({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return getattr(other, "text", None) == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class More(Exception):
    """The reply goes on in bytes to come."""


def pack(command: tuple[Argument, ...]) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        if isinstance(argument, str):
            text = argument.encode()
        elif isinstance(argument, int):
            if not -(1 << 63) <= argument < 1 << 63:
                raise OverflowError
            text = b"%d" % argument
        elif isinstance(argument, bytes):
            text = argument
        else:
            raise TypeError(f"no {type(argument).__name__}")
        parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
    return b"".join(parts)


LINES = {
    b"+": rb"[^\r\n]*",
    b"-": rb"[^\r\n]*",
    b":": rb"[+-]?\d{1,19}",
    b"_": rb"",
    b"#": rb"[tf]",
    b"(": rb"[+-]?\d+",
    b",": rb"[+-]?(inf|nan|\d+(\.\d*)?([eE][+-]?\d+)?)",
}
FAULTS = {
    "type": "a type that is none",
    "length": "a length that is none",
    "end": "a text that does not end where it should",
    "line": "a line that is no value of its type",
    "big": "a reply over REDIS_REPLY_BYTES_MAX",
    "deep": "a reply over REDIS_REPLY_DEPTH_MAX",
}


class Parser:
    """Recursive descent over the bytes of one reply."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def line(self) -> bytes:
        end = self.data.find(b"\r", self.at)
        if end < 0:
            if len(self.data) > REDIS_REPLY_BYTES_MAX:
                raise ProtocolError("big")
            raise More
        if end + 2 > REDIS_REPLY_BYTES_MAX:
            raise ProtocolError("big")
        if end + 1 == len(self.data):
            raise More
        if self.data[end + 1] != 10:
            raise ProtocolError("end")
        line, self.at = self.data[self.at : end], end + 2
        return line

    def value(self, depth: int = 0) -> Any:
        start = self.at
        mark = self.data[start : start + 1]
        if not mark:
            raise More
        if mark not in b"+-:$*_#,(!=%~>":
            raise ProtocolError("type")
        line = self.line()[1:]
        if mark in LINES:
            return self.scalar(mark, line)
        if line == b"-1" and mark in b"$*":
            return None
        if not re.fullmatch(rb"\d{1,19}", line) or int(line) >= 1 << 63:
            raise ProtocolError("length")
        if mark in b"$!=":
            return self.text(mark, int(line))
        if mark == b">" and (start or int(line) == 0):
            raise ProtocolError("type")
        count = int(line) * (2 if mark == b"%" else 1)
        if count > (REDIS_REPLY_BYTES_MAX - self.at) // 3:
            raise ProtocolError("big")
        if count and depth == REDIS_REPLY_DEPTH_MAX:
            raise ProtocolError("deep")
        values = [self.value(depth + 1) for _ in range(count)]
        return list(zip(values[::2], values[1::2], strict=True)) if mark == b"%" else values

    def scalar(self, mark: bytes, line: bytes) -> Any:
        number = mark in b":,("
        if not re.fullmatch(LINES[mark], line, re.DOTALL) or (number and len(line) > 127):
            raise ProtocolError("line")
        if mark == b":" and not -(1 << 63) <= int(line) < 1 << 63:
            raise ProtocolError("line")
        if mark == b"-":
            return Refusal(line.decode("utf-8", "replace"))
        made: dict[bytes, Any] = {b":": int, b"(": int, b",": float, b"#": b"t".__eq__, b"_": lambda _: None}
        return made.get(mark, bytes)(line)

    def text(self, mark: bytes, count: int) -> Any:
        if count > REDIS_REPLY_BYTES_MAX - self.at - 2:
            raise ProtocolError("big")
        if len(self.data) < self.at + count + 2:
            raise More
        text = self.data[self.at : self.at + count]
        end = self.data[self.at + count : self.at + count + 2]
        if end != b"\r\n" or (mark == b"=" and text[3:4] != b":"):
            raise ProtocolError("end")
        self.at += count + 2
        if mark == b"!":
            return Refusal(text.decode("utf-8", "replace"))
        return text[4:] if mark == b"=" else text


def read_reply(data: bytes) -> tuple[Any, int] | str | None:
    parser = Parser(data)
    try:
        return parser.value(), parser.at
    except More:
        return None
    except ProtocolError as error:
        return FAULTS[str(error)]


def slot_of(key: str | bytes) -> int:
    text = key.encode() if isinstance(key, str) else key
    tag = re.search(rb"\{([^}]*)\}", text, re.DOTALL)
    return binascii.crc_hqx(tag[1] if tag and tag[1] else text, 0) % SLOTS_COUNT
