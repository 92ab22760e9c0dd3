"""The engine behind a PROXY balancer: its header, then the head, then frames, in any pieces.

One byte leads, as in the target engine; its high bit puts a good PROXY header and a good request in front.
"""

from fuzz.target import Target
from fuzz.targets import engine, proxy


def run(data: bytes) -> None:
    kind, stream = (data[0], data[1:]) if data else (0, b"")
    stream = proxy.V1 + engine.HEAD + stream if kind & 0x80 else stream
    engine.server(True).exchange(stream, engine.piece_bytes(kind, stream))


TARGET = Target(
    run,
    seeds=(
        b"\x03" + proxy.V2 + engine.HEAD + b"\x81\x82" + engine.MASK + b"{}",
        b"\x87\x81\x81" + engine.MASK + b"x",
        b"\x07" + proxy.V1 + b"GET /\n",
        b"\x07PROXY TCP4 x\r\n" + engine.HEAD,
    ),
    words=(*proxy.TARGET.words, proxy.V1, proxy.V2, engine.HEAD, *engine.TARGET.words),
)
