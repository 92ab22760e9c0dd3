"""The PROXY protocol header, versions 1 and 2: bytes in, the client's address out. Sans-I/O."""

MALFORMED: int  # 400, of codes.Refusals, which this package does not import

def parse(data: bytes | bytearray | memoryview) -> tuple[int, str]:
    """(bytes of the header at the front, the client's address); what follows is not looked at.

    The bytes are 0 while the header is not whole, -MALFORMED when it cannot become one: another signature, another
    version, an address or port that is none, a version 2 header over PROXY_HEADER_BYTES_MAX. The address is "" when
    the header names none that we use: LOCAL, UNKNOWN, an unspecified family, datagrams, Unix sockets. IPv4-mapped
    IPv6 addresses are told as IPv4."""
