"""Identifiers: who may be called what, UUIDv7 (RFC 9562 §5.7), boot ULIDs, client ids.

These rules are checked at admission and at the token, so that nobody can inject a subject or a key.
"""

import binascii
import os
import re
import time
import uuid
from typing import Final

from notification.errors import InvalidInput
from notification.limits import ID_CHARS_MAX, USER_CHARS_MAX

_TIME_RULE: Final = "must be a UUID of version 7 whose time is not after the year 9999"
TOKEN_PATTERN: Final = rf"[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}"
_TOKEN: Final = re.compile(TOKEN_PATTERN, re.ASCII)
# Audiences stand beside users wherever a notification names whom it is for, so no user can be called like one.
TENANT: Final = "tenant"  # everybody of it
SEGMENT_PREFIX: Final = "segment:"
USER_PATTERN: Final = rf"(?!{TENANT}$|{SEGMENT_PREFIX})[!-~]{{1,{USER_CHARS_MAX}}}"
USER_RULE: Final = (
    f"must be 1 to {USER_CHARS_MAX} printable ASCII characters without space; "
    "`tenant` and `segment:...` are reserved"
)
_USER: Final = re.compile(USER_PATTERN, re.ASCII)
UUID7_MS_MAX: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z: the last time a date can name
_MS_MASK: Final = 2**48 - 1
_VERSION_7: Final = 0x7 << 76 | 0x2 << 62  # version and variant, RFC 9562 §5.7
_VERSION_MASK: Final = 0xF << 76 | 0x3 << 62
_RANDOM_MASK: Final = 2**80 - 1 & ~_VERSION_MASK
_CANONICAL_7: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_URLSAFE: Final = str.maketrans("+/", "-_")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def check_token(value: str, field: str) -> str:
    """Return `value` if it is a tenant, device or segment id; raise InvalidInput naming `field` otherwise."""
    if _TOKEN.fullmatch(value) is None:
        raise InvalidInput(field, f"must be 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -")
    return value


def check_user(value: str, field: str = "user_id") -> str:
    """Return `value` if it is a user id; raise InvalidInput naming `field` otherwise."""
    if _USER.fullmatch(value) is None:
        raise InvalidInput(field, USER_RULE)
    return value


def is_audience(entity: str) -> bool:
    """Whether whom a notification is for is an audience, not a user."""
    return entity == TENANT or entity.startswith(SEGMENT_PREFIX)


def encode_user(user: str) -> str:
    """A user id as a subject or key token: base64url without padding."""
    text = binascii.b2a_base64(user.encode("ascii"), newline=False).decode("ascii").rstrip("=")
    return text.translate(_URLSAFE) if "+" in text or "/" in text else text


def new_uuid7(now_ms: int | None = None) -> uuid.UUID:
    """A UUIDv7: 48 bits of Unix milliseconds, then random bits."""
    return uuid.UUID(bytes=new_uuid7_bytes(time.time_ns() // 1_000_000 if now_ms is None else now_ms))


def new_uuid7_bytes(now_ms: int) -> bytes:
    """The 16 bytes of a UUIDv7."""
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_MASK
    return ((now_ms & _MS_MASK) << 80 | _VERSION_7 | random).to_bytes(16, "big")


def uuid7_ms(value: uuid.UUID) -> int:
    """The Unix milliseconds inside a UUIDv7. Raises InvalidInput: another version, a time after the year 9999."""
    if value.int & _VERSION_MASK != _VERSION_7:
        raise InvalidInput("id", "must be a UUID of version 7")
    stamp = value.int >> 80
    if stamp > UUID7_MS_MAX:
        raise InvalidInput("id", _TIME_RULE)
    return stamp


def is_uuid7(value: uuid.UUID) -> bool:
    """Whether a notification may have this id: version 7, and a time that a date can name."""
    return value.int & _VERSION_MASK == _VERSION_7 and value.int >> 80 <= UUID7_MS_MAX


def parse_uuid7(text: str, field: str = "id") -> uuid.UUID:
    """Parse the canonical 36-character form only, of a time up to UUID7_MS_MAX. Raises InvalidInput."""
    if _CANONICAL_7.fullmatch(text) is None:
        raise InvalidInput(field, "must be a UUID of version 7 in its lower-case canonical form")
    value = uuid.UUID(text)
    if value.int >> 80 > UUID7_MS_MAX:
        raise InvalidInput(field, _TIME_RULE)
    return value


def new_ulid() -> str:
    """A ULID: 26 Crockford characters, time-ordered; names one boot of a gateway process."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
