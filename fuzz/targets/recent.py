"""The bounded memory of verified tokens: any order of puts and gets forgets what the twin forgets."""

from fuzz.target import Target, same
from gateway._fast import jwt
from tests.reference import jwt as twin


def run(data: bytes) -> None:
    entries_max, chars_max = (2 + data[0] % 30, 4 + data[1]) if len(data) > 1 else (2, 4)
    ours: jwt.Recent[int] = jwt.Recent(entries_max, chars_max)
    twins: twin.Recent[int] = twin.Recent(entries_max, chars_max)
    for number, byte in enumerate(data[2:]):
        key = chr(65 + byte % 64) * (1 + byte % 7)
        if byte < 128:
            ours.put(key, number)
            twins.put(key, number)
        same("get", ours.get(key), twins.get(key))
        same("length", len(ours), len(twins))


TARGET = Target(run, seeds=(b"\x04\x20ABCABDEAB\xc1\xc2", bytes(range(256))), bytes_max=400)
