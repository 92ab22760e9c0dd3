"""The PROXY header, versions 1 and 2: what it says, and that no shorter piece of it says anything."""

from fuzz.target import Target, same
from gateway._fast import proxy
from tests.reference import proxy as twin


def run(data: bytes) -> None:
    used, address = proxy.parse(data)
    same("parse", (used, address), twin.parse(data))
    if used > 0:
        same("what follows is not looked at", proxy.parse(data[:used] + b"\0"), (used, address))
        for cut in (used - 1, used // 2):
            same("part", proxy.parse(data[:cut]), (0, ""))


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 51234 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = SIGNATURE + b"\x21\x11\0\x0c\xc0\0\2\1\xc6\x33\x64\2\xc8\x22\1\xbb"
TARGET = Target(
    run,
    seeds=(
        V1, V2, b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n", b"PROXY UNKNOWN\r\n",
        SIGNATURE + b"\x20\0\0\0", SIGNATURE + b"\x21\x21\0\x24" + bytes(36),
        SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
    ),
    words=(
        SIGNATURE, b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"\x21\x11\0\x0c", b"\x21\x21\0\x24",
        b"\x20", b"::ffff:", b"::", b"255.255.255.255", b"65536", b" 0 0",
    ),
    bytes_max=800,
)  # fmt: skip
