"""Errors that cross module borders.

HeraldError
├── SettingsError     the operator's configuration is wrong; names the key and the fix
├── InvalidInput      a caller's value breaks a rule; names the field
│   └── Conflict      the value is well formed, but the database says no: taken already, or not there
├── BusError
│   ├── NoResponders  nobody listens on the subject: that gateway is gone
│   ├── BusTimeout    no answer within the deadline
│   └── BadBatch      magic, version, length or checksum is wrong
├── Unavailable       a server we need is down; retried, never a reason to drop anything
└── CryptoError       a seal does not open: wrong key, wrong place or altered bytes
"""


class HeraldError(Exception):
    """Base of every error Herald raises on purpose."""


class SettingsError(HeraldError):
    """The configuration is wrong; the text names the key and the fix."""


class InvalidInput(HeraldError):
    """A value breaks a rule of the contract.

    `field` is the name as the caller wrote it, `rule` a full phrase: "must be 1 to 64 of A-Z a-z 0-9 _ -".
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class Conflict(InvalidInput):
    """A well-formed value that what is stored forbids: it is taken already, or names nothing that exists."""


class BusError(HeraldError):
    """The bus did not do what was asked."""


class NoResponders(BusError):
    """Nobody listens on the subject."""


class BusTimeout(BusError):
    """No answer within the deadline."""


class BadBatch(BusError):
    """A bus message does not decode: magic, version, length or checksum."""


class Unavailable(HeraldError):
    """A server we need cannot be reached; the text names it."""


class CryptoError(HeraldError):
    """A seal does not open."""
