"""Changes of an input: the usual ones of a byte fuzzer, words of the target's language among them."""

import random
from collections.abc import Callable, Sequence

_INTERESTING = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 125, 126, 127, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000, 1 << 63)
_CHANGES_MAX = 6


class Mutator:
    """Makes inputs of at most `bytes_max` bytes from others; the same `random` makes the same ones."""

    def __init__(self, chance: random.Random, words: Sequence[bytes], bytes_max: int) -> None:
        self._chance = chance
        self._words = words
        self._bytes_max = bytes_max
        self._changes: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._set, self._number, self._digit, self._remove, self._repeat, self._insert, self._word,
            self._word,
        )  # fmt: skip

    def mutate(self, parent: bytes, other: bytes) -> bytes:
        """A changed `parent`, now and then crossed with `other`."""
        data = bytearray(parent)
        if self._chance.random() < 0.1:
            data = data[: self._at(data)] + other[self._at(other) :]
        for _ in range(self._chance.randint(1, _CHANGES_MAX)):
            self._chance.choice(self._changes)(data)
        return bytes(data[: self._bytes_max])

    def _at(self, data: bytes | bytearray) -> int:
        return self._chance.randint(0, len(data))

    def _span(self, data: bytearray) -> slice:
        """Short ones more often than long ones."""
        start = self._at(data)
        return slice(start, start + self._chance.randint(1, self._chance.choice((1, 4, 16, 256))))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._chance.randrange(len(data))] = self._chance.randrange(256)

    def _number(self, data: bytearray) -> None:
        """A number at the edge of something, in 1 to 8 bytes of either order."""
        count = self._chance.choice((1, 2, 4, 8))
        value = (self._chance.choice(_INTERESTING) + self._chance.randint(-1, 1)) % (1 << 8 * count)
        start = self._at(data)
        data[start : start + count] = value.to_bytes(count, self._chance.choice(("big", "little")))

    def _digit(self, data: bytearray) -> None:
        found = [index for index, byte in enumerate(data) if 0x30 <= byte <= 0x39]
        if found:
            data[self._chance.choice(found)] = self._chance.randint(0x30, 0x39)

    def _remove(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        piece = bytes(data[self._span(data)])
        start = self._at(data)
        data[start:start] = piece * self._chance.choice((1, 1, 2, 8, 64))

    def _insert(self, data: bytearray) -> None:
        start = self._at(data)
        data[start:start] = self._chance.randbytes(self._chance.randint(1, 8))

    def _word(self, data: bytearray) -> None:
        if not self._words:
            return
        word = self._chance.choice(self._words)
        start = self._at(data)
        data[start : start + self._chance.choice((0, len(word)))] = word
