"""Plain-Python twin of gateway/_fast/jwt.pyx. From RFC 7515, RFC 4648, jwt.pyi; never in production."""

import base64
import binascii
import re
from typing import Generic, TypeVar

from notification.limits import TOKEN_BYTES_MAX

V = TypeVar("V")

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([^.]+)\.([^.]+)", re.DOTALL)

_MARK = re.compile(rb'"((?:[^"\\]|\\.)*)"|[{}\[\]:]', re.DOTALL)


def base64url(text: str) -> bytes | None:
    if _ALPHABET.fullmatch(text) is None:
        return None
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == text.encode() else None


def split(token: str) -> tuple[str, bytes, bytes, bytes] | None:
    found = _COMPACT.fullmatch(token)
    if found is None or len(token) > TOKEN_BYTES_MAX:
        return None
    claims, signature = base64url(found[2]), base64url(found[3])
    if claims is None or signature is None:
        return None
    return found[1], claims, token.rpartition(".")[0].encode(), signature


def distinct(text: bytes) -> bool:
    depth, last, names = 0, b"", []
    for found in _MARK.finditer(text):
        if found[0] in (b"{", b"["):
            depth += 1
        elif found[0] in (b"}", b"]"):
            depth -= 1
        elif found[0] != b":":
            last = found[1]
        elif depth == 1:
            names.append(last)
    return len(names) <= 64 and len(set(names)) == len(names) and not any(b"\\" in name for name in names)


class Recent(Generic[V]):
    """One dict in order of use, cut into generations: (generation, value) by text."""

    def __init__(self, entries_max: int, chars_max: int) -> None:
        self._bounds = entries_max // 2, chars_max // 2
        self._values: dict[str, tuple[int, V]] = {}
        self._now = 0

    def _young(self) -> list[str]:
        return [key for key, (generation, _) in self._values.items() if generation == self._now]

    def get(self, key: str) -> V | None:
        generation, value = self._values.get(key, (0, None))
        if value is not None and generation != self._now:
            del self._values[key]
            self.put(key, value)
        return value

    def put(self, key: str, value: V) -> None:
        entries_max, chars_max = self._bounds
        if len(key) > chars_max:
            return
        young = self._young()
        if len(young) >= entries_max or sum(map(len, young)) + len(key) > chars_max:
            self._values = {name: kept for name, kept in self._values.items() if kept[0] == self._now}
            self._now += 1
        self._values[key] = (self._now, value)

    def __len__(self) -> int:
        return len(self._values)
