"""A gateway process, some of its limits replaced first: `python -m tests.hostile.serve HEARTBEAT_MS=1000 ...`.

The process is what the supervisor would start; this module says to it what the supervisor would say.
"""

import socket
import sys
import threading

from notification import limits
from notification import settings as configuration


def main(replaced: list[str]) -> int:
    """Replace, then serve; the exit status."""
    for text in replaced:
        name, _, value = text.partition("=")
        assert isinstance(getattr(limits, name), int), name
        setattr(limits, name, int(value))
    # Imported here: every module reads its limits once.
    from gateway import link, listener, process

    settings, _ = configuration.load()
    sock = listener.bind(settings.gateway_host, settings.gateway_port)
    sock.listen(limits.LISTEN_BACKLOG)
    ours, theirs = link.pair()
    ours.send(b"listening 0")
    threading.Thread(target=_read, args=(ours,), daemon=True).start()
    return process.main(0, sock, theirs)


def _read(sock: socket.socket) -> None:
    """What it reports is not needed, but must not fill the link."""
    sock.setblocking(True)
    while sock.recv(64):
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
