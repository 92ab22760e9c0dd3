"""Which notifications a device has, lane by lane: the cursor of the Python client."""

from notification.frames import Cursor, Notification


class Lanes:
    """What this device has: per lane the seq up to which everything was received *and* acked."""

    def __init__(self, cursor: Cursor | None) -> None:
        self.epoch = cursor.epoch if cursor else None
        self._at = dict(cursor.at) if cursor else {}
        self._unacked: dict[str, tuple[str, int]] = {}  # id -> (lane, seq), in write order, this session only

    def cursor(self) -> Cursor | None:
        """Up to where everything was received and acked; None before the first session."""
        if self.epoch is None:
            return None
        at = dict(self._at)
        for lane, seq in self._unacked.values():
            at[lane] = min(at.get(lane, seq), seq - 1)
        return Cursor(self.epoch, at)

    def begin(self, epoch: int, keep: bool) -> None:
        """A new session: it starts from our cursor (`keep`, and it is one of that `epoch`), or from nothing."""
        cursor = self.cursor()
        self._at = dict(cursor.at) if keep and cursor and cursor.epoch == epoch else {}
        self._unacked.clear()
        self.epoch = epoch

    def received(self, frame: Notification) -> None:
        """A notification was written to us: unacked from now on."""
        self._at[frame.lane] = max(self._at.get(frame.lane, 0), frame.seq)
        self._unacked[frame.id] = (frame.lane, frame.seq)

    def complete(self, at: dict[str, int], recovered: bool) -> None:
        """Everything owed was written; when not `recovered` our old numbers mean nothing in the server's log."""
        held = self._at if recovered else {}
        self._at = {lane: max(held.get(lane, 0), at.get(lane, 0)) for lane in {*held, *at}}

    def acked(self, ident: str) -> bool:
        """False when the id was not written on this session: the server would not count its ack."""
        return self._unacked.pop(ident, None) is not None
