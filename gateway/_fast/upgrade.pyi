"""The request before the WebSocket: HTTP/1.1 request heads in, parsed or refused, and the answers' bytes out."""

# What a head is refused with: HTTP status codes of codes.Refusals, which this package does not import.
MALFORMED: int  # 400
METHOD: int  # 405
HEADERS_TOO_LARGE: int  # 431

# (method, path, query, lower-case header name -> its values in order, each without blanks around it)
Parsed = tuple[str, str, str, dict[str, list[str]]]

def head_end(data: bytes | bytearray | memoryview, checked: int = 0) -> int:
    """Where the request head ends: the bytes up to and with its empty line; 0 when that has not come yet.

    `checked`: bytes at the front that an earlier call has seen (it returned 0): each byte is looked at once.
    Negative: a refusal. -MALFORMED at a control character, a bare CR or LF, or an empty first line;
    -HEADERS_TOO_LARGE when no empty line comes within HEADER_BYTES_MAX bytes of head."""

def parse(head: bytes) -> Parsed | int:
    """Parse a head (without its empty line), or say what it is refused with.

    HEADERS_TOO_LARGE: over HEADER_BYTES_MAX bytes or HEADERS_COUNT_MAX lines. MALFORMED: anything but
    `method SP origin-form SP HTTP/1.1`, a name that is no token, a folded line, a control character, not exactly
    one Host, and whatever announces a body (RFC 9112 §6). METHOD: well-formed, but not GET."""

def accept(key: str) -> str:
    """Sec-WebSocket-Accept of a Sec-WebSocket-Key (24 characters), RFC 6455 §4.2.2. ValueError: over 80 of them."""

def switching(key: str, subprotocol: str | None) -> bytes:
    """The 101 response."""

def answer(status: int, phrase: str, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    """A whole response that ends the connection."""
