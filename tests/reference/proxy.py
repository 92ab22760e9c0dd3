"""Plain-Python twin of gateway/_fast/proxy.pyx. From the PROXY protocol's specification and proxy.pyi."""

import ipaddress
import re
import socket

from notification.limits import PROXY_HEADER_BYTES_MAX

MALFORMED = 400

V1, V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_PORT = rb" (0|[1-9][0-9]{0,4})"
_TCP = re.compile(rb"PROXY TCP([46]) ([^ ]+) ([^ ]+)" + _PORT + _PORT)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN( [\x20-\x7e]*)?")
_ADDRESS_BYTES = {0: 0, 1: 12, 2: 36, 3: 216}
_WRONG = -MALFORMED, ""


def parse(data: bytes) -> tuple[int, str]:
    data = bytes(data)
    if data.startswith(V1) or V1.startswith(data):
        return _version_1(data)
    if data.startswith(V2) or V2.startswith(data):
        return _version_2(data)
    return _WRONG


def _version_1(data: bytes) -> tuple[int, str]:
    line, crlf, _ = data[:107].partition(b"\r\n")
    if re.fullmatch(rb"[\x20-\x7e]*" if crlf else rb"[\x20-\x7e]*\r?", line) is None:
        return _WRONG
    if not crlf:
        return _WRONG if len(data) >= 107 else (0, "")
    if _UNKNOWN.fullmatch(line):
        return len(line) + 2, ""
    found = _TCP.fullmatch(line)
    if found is None or max(int(found[4]), int(found[5])) > 65_535:
        return _WRONG
    family = socket.AF_INET if found[1] == b"4" else socket.AF_INET6
    try:
        source, _ = (socket.inet_pton(family, found[n].decode()) for n in (2, 3))
    except OSError:
        return _WRONG
    return len(line) + 2, _text(source)


def _version_2(data: bytes) -> tuple[int, str]:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        return _WRONG
    if len(data) < 16:
        return 0, ""
    size = 16 + int.from_bytes(data[14:16], "big")
    family, transport = divmod(data[13], 16)
    if size > PROXY_HEADER_BYTES_MAX:
        return _WRONG
    if data[12] == 0x21:
        known = (family, transport) == (0, 0) or (family in (1, 2, 3) and transport in (1, 2))
        if not known or size < 16 + _ADDRESS_BYTES[family]:
            return _WRONG
    if len(data) < size:
        return 0, ""
    if data[12] == 0x21 and data[13] in (0x11, 0x21):
        return size, _text(data[16:20] if family == 1 else data[16:32])
    return size, ""


def _text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return socket.inet_ntop(socket.AF_INET if mapped.version == 4 else socket.AF_INET6, mapped.packed)
