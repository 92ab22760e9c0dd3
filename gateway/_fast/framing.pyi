"""RFC 6455 frame headers of clients, and their masks; production calls the C side (framing.pxd)."""

def read_frame(data: bytes, payload_bytes_max: int) -> tuple[int, bool, int, bytes, int] | int:
    """The frame at the front: (opcode, fin, rsv, payload unmasked, its bytes on the wire); 0 when more bytes are
    needed; a negative close code: -1002 not masked, length not in its shortest form or above 2^63; -1009 payload
    over `payload_bytes_max`. Both come as soon as the header shows them."""
