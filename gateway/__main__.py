"""`python -m gateway`: the supervisor and its processes; `--process N` is one of them."""

import argparse
import socket
import sys


def main() -> int:
    """Parse the command line and run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Serve Herald's clients over WebSocket.")
    parser.add_argument("--process", type=int, metavar="N", help="run as process N (the supervisor does this)")
    parser.add_argument("--socket", type=int, metavar="FD", help="its listening socket, inherited")
    parser.add_argument("--link", type=int, metavar="FD", help="its link to the supervisor, inherited")
    arguments = parser.parse_args()
    # Imported here: the metrics choose their mode at import, from the environment the supervisor prepares.
    if arguments.process is not None:
        from gateway import process

        if arguments.socket is None or arguments.link is None:
            parser.error("--process needs --socket and --link: start the gateway with `python -m gateway`")
        sock, link = socket.socket(fileno=arguments.socket), socket.socket(fileno=arguments.link)
        return process.main(arguments.process, sock, link)
    from gateway import supervisor

    return supervisor.main()


if __name__ == "__main__":
    sys.exit(main())
