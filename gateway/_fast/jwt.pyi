"""The mechanical parts of verifying a JWT: base64url, the compact form, doubled names, what was verified lately.

No policy and no cryptography: which key, which algorithm and which claims is gateway/tokens.py.
"""

from typing import Generic, TypeVar

V = TypeVar("V")

def base64url(text: str) -> bytes | None:
    """Decode; None if it is not base64url as RFC 7515 §2 has it: no padding, no byte outside the alphabet, and no
    bit set that belongs to no byte (RFC 4648 §3.5). So every sequence of bytes has exactly one spelling."""

def split(token: str) -> tuple[str, bytes, bytes, bytes] | None:
    """A compact JWS (RFC 7515 §3.1) taken apart: (header, claims, signed, signature), or None if it is not one.

    `header` is the first part as it stands (of the alphabet, not decoded: a known one need not be); `claims` and
    `signature` are decoded strictly; `signed` is what the signature is about. At most TOKEN_BYTES_MAX characters;
    three parts, none of them empty."""

def distinct(json: bytes) -> bool:
    """Are the names of a JSON object surely different? Of the object itself; what is nested in it is not looked at.

    `json` is an object that a strict parser has taken; of other bytes the answer means nothing. False: a name
    came twice, or may have: one is written with an escape (`"\\u0069ss"` is `"iss"`), or there are more than 64.
    Then only a parser can tell. Of a name that came twice two parsers may take different values (RFC 8259 §4)."""

class Recent(Generic[V]):
    """The values put or got lately, by text. Which ones are forgotten first is roughly the least lately used.

    Never more than `entries_max` values and `chars_max` characters of text; a text longer than half of that is not
    kept. At least the latest half of `entries_max` is there, as far as `chars_max` allows."""

    def __init__(self, entries_max: int, chars_max: int) -> None: ...
    def get(self, key: str) -> V | None:
        """The value, or None if it was never put or is forgotten."""
    def put(self, key: str, value: V) -> None:
        """Keep a value, which is not None, in place of what the text had."""
    def __len__(self) -> int: ...
