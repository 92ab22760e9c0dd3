"""Acks of all connections, from the client's text to packed receipts, without an object each."""

from collections.abc import Callable

from gateway._fast.session import Session

class Acks:
    """What was acknowledged since the last take(), as notification.messages packs AckReceipt. `at_ms`: Unix ms.
    Numbers are 0 or more.

    `collected` is called when the first receipt since take() is there, and whenever one came to
    RECEIPTS_PER_ENTRY_MAX - 1 or more: by then, or after a tick, somebody should take().
    """

    def __init__(self, collected: Callable[[], None] | None = None) -> None: ...
    def ack(self, session: Session, text: bytes, at_ms: int) -> int:
        """A client's message. If it is an ack in the form that JSON encoders give it, without spaces and with ids
        in the canonical form of UUIDs, free the ids' places in the session's window and collect a receipt for each;
        how many. -1, and nothing happened: it is anything else."""
    def put(self, session: Session, lane: int, seq: int, ident: bytes, at_ms: int) -> None:
        """Collect the receipt of an ack that came in another form; `ident` has 16 bytes (ValueError)."""
    def take(self) -> bytes:
        """A MessagePack array of everything collected, which is forgotten."""
    def __len__(self) -> int:
        """Receipts collected."""
