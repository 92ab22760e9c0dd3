"""A circuit breaker: who gave no answer several times in a row is left alone for a while."""


class Breaker:
    """Closed until `failures_max` failures came in a row. Open, it lets one try through per `open_ms`; the first
    success closes it. A try that nobody reports on holds nothing up. Times are monotonic ms."""

    def __init__(self, failures_max: int, open_ms: int) -> None:
        self._failures_max = failures_max
        self._open_ms = open_ms
        self._failures = 0
        self._next_try_ms = 0
        self.open = False

    def admit(self, now_ms: int) -> bool:
        """May this one try?"""
        if self.open:
            if now_ms < self._next_try_ms:
                return False
            self._next_try_ms = now_ms + self._open_ms
        return True

    def succeeded(self) -> bool:
        """An answer came, whatever it says. True: that closed the breaker."""
        closed, self.open = self.open, False
        self._failures = 0
        return closed

    def failed(self, now_ms: int) -> bool:
        """No answer came. True: that opened the breaker."""
        self._failures += 1
        opened = not self.open and self._failures >= self._failures_max
        if opened:
            self.open = True
            self._next_try_ms = now_ms + self._open_ms
        return opened
