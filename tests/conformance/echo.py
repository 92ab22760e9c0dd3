"""An echo server on the real frame layer and Session: `python -m tests.conformance.echo engine`, or picows.

Prints its port. Test suites send what Herald's clients may not: the limits are lifted before the extensions, which
read them once, are imported. What judges frames is the code that production runs.
"""

import asyncio
import sys

from notification import limits

MESSAGE_BYTES_MAX = 16 * 1_024 * 1_024  # Autobahn 9.1.6
LIFTED = {
    "FRAME_BYTES_MAX": MESSAGE_BYTES_MAX,
    "FRAGMENTS_MAX": 1 << 20,
    "WRITE_BUFFER_BYTES_MAX": 4 * MESSAGE_BYTES_MAX,
    "MESSAGE_OPEN_MS_MAX": 120_000,
    "MESSAGES_TEXT_ONLY": False,
    "CLIENT_FRAMES_PER_S_MAX": 1_000_000,
    "CLIENT_FRAMES_BURST_MAX": 1_000_000,
    "CLIENT_PINGS_PER_S_MAX": 1_000_000,
    "CLIENT_PINGS_BURST_MAX": 1_000_000,
}


async def serve(carrier: str) -> None:
    """Echo until killed."""
    # Imported here: the limits must be lifted first.
    from tests.unit.gateway._fast.carriers import Recorder, serving

    class Echo(Recorder):
        """Remembers nothing: the suite makes hundreds of connections."""

        def message(self, connection: object, text: bytes) -> None:
            session = connection.session  # type: ignore[attr-defined]
            session.send(text, session.binary)

        def closed(self, connection: object, clean: bool) -> None:
            self.connections.remove(connection)  # type: ignore[arg-type]

    async with serving(carrier, Echo()) as port:
        print(port, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Lift the limits, then serve."""
    import uvloop

    for name, value in LIFTED.items():
        setattr(limits, name, value)
    uvloop.run(serve(sys.argv[1]))


if __name__ == "__main__":
    main()
