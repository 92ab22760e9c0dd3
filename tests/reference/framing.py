"""Plain-Python twin of gateway/_fast/framing.pyx. From RFC 6455 §5 and framing.pyi; never used in production."""

from itertools import cycle


def read_frame(data: bytes, payload_bytes_max: int) -> tuple[int, bool, int, bytes, int] | int:
    if len(data) < 2:
        return 0
    if data[1] < 0x80:
        return -1002
    wide = {126: 2, 127: 8}.get(data[1] - 0x80, 0)
    if len(data) < 2 + wide:
        return 0
    count = int.from_bytes(data[2 : 2 + wide], "big") if wide else data[1] - 0x80
    if (wide == 2 and count <= 125) or (wide == 8 and (count <= 0xFFFF or count >= 1 << 63)):
        return -1002
    if count > payload_bytes_max:
        return -1009
    mask, payload = data[2 + wide : 6 + wide], data[6 + wide : 6 + wide + count]
    if len(mask) < 4 or len(payload) < count:
        return 0
    plain = bytes(byte ^ key for byte, key in zip(payload, cycle(mask), strict=False))
    return data[0] & 0x0F, data[0] >= 0x80, data[0] >> 4 & 7, plain, 6 + wide + count
