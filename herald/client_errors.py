"""What the Python client raises.

ClientError
├── Refused       the gateway answered the upgrade with an HTTP status that a retry does not change
├── Unreachable   nothing answers at the address, or only "try later" within the deadline
├── SessionEnded  the server closed with a code that says: do not reconnect
├── NotConnected  a request was made, or cut off, while the connection was down
└── ServerBusy    the server could not answer a request within the deadline, however often asked; try again
"""

from notification.errors import HeraldError


class ClientError(HeraldError):
    """Base of what this client raises."""


class Refused(ClientError):
    """`status` and `code` as in the refusals of docs/protocol.md."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the gateway refused the connection: HTTP {status} ({code})")
        self.status = status
        self.code = code


class Unreachable(ClientError):
    """No session within the deadline; `url` is the address tried."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"gateway at {url} does not answer: {cause}")
        self.url = url


class SessionEnded(ClientError):
    """`code` and `reason` of the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the gateway ended the session: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class NotConnected(ClientError):
    """The connection is down; it is being reopened."""


class ServerBusy(ClientError):
    """The server did not answer the request; try again."""
