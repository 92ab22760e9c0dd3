"""bench/attacks.py: what its clients make of an answer, and frames as a gateway reads them."""

import pytest

from bench.attacks import masked, verdict
from gateway._fast import framing
from notification.limits import FRAME_BYTES_MAX

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\n\r\n{}", "429"),
        (UPGRADED, "upgraded"),
        (UPGRADED + b"\x81\x02{}", "upgraded"),
        (UPGRADED + b"\x81\x02{}\x88\x06\x03\xeaoops", "1002"),
        (UPGRADED + b"\x81\x7e\x01\x00" + bytes(256) + b"\x88\x02\x11\x4d", "4429"),
        (UPGRADED + b"\x81\x7e\x01\x00" + bytes(100), "upgraded"),
    ],
)
def test_verdict(answer: bytes, said: str) -> None:
    assert verdict(answer) == said


@pytest.mark.parametrize("count", [0, 125, 126, FRAME_BYTES_MAX])
def test_masked(count: int) -> None:
    frame = masked(1, b"x" * count, fin=False)
    assert framing.read_frame(frame, FRAME_BYTES_MAX) == (1, False, 0, b"x" * count, len(frame))
