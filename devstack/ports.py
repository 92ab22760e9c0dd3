"""Is a port free, and if not, who holds it."""

import os
import random
import socket
from pathlib import Path
from typing import Final

from notification.errors import SettingsError
from notification.settings import PREFIX

_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_TEST_PORTS: Final = (20_000, 32_000)  # net.ipv4.ip_local_port_range begins at 32,768


def require_free(host: str, port: int, what: str, key: str) -> None:
    """Raise SettingsError that names the port, its holder where visible, and the setting that changes it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = _holder(port)
            raise SettingsError(
                f"{what} cannot listen on {host}:{port}: "
                + (f"the port is taken by {holder}" if holder else str(error.strerror).lower())
                + f". Choose another with {PREFIX}{key.upper()}=PORT, or `{key} = PORT` in herald.toml"
            ) from error


def free_ports(count: int) -> list[int]:
    """`count` different ports that were free a moment ago, for tests.

    They lie below the range from which the kernel takes the ports of outgoing connections, so that no
    client of a test that runs beside can take one before the server does.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*_TEST_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))  # without SO_REUSEADDR: nor does an ended connection linger on it
            except OSError:  # taken: another one
                continue
        if port not in ports:
            ports.append(port)
    return ports


def _holder(port: int) -> str:
    """`name (pid N)` of the process that listens on the port; empty where the kernel does not tell us."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_target(link) in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it ended meanwhile, or belongs to another user
            continue
    return "another user's process"


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    return inodes
