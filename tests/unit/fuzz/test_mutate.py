"""fuzz/mutate: bounded, repeatable, and able to get everywhere."""

import random

from fuzz.mutate import Mutator


def children(seed: int, count: int = 3_000) -> list[bytes]:
    mutator = Mutator(random.Random(seed), (b"WORD",), 64)
    return [mutator.mutate(b"GET / 12", b"other") for _ in range(count)]


def test_the_same_chance_makes_the_same_inputs() -> None:
    assert children(1) == children(1)
    assert children(1) != children(2)


def test_inputs_are_bounded_and_of_all_kinds() -> None:
    made = children(3)
    assert max(map(len, made)) == 64
    assert len(set(made)) > 2_000
    assert any(b"WORD" in data for data in made)
    assert any(data.endswith(b"ther") for data in made)
    assert any(len(data) < 3 for data in made)
    assert len({byte for data in made for byte in data}) == 256


def test_an_empty_input_and_no_words() -> None:
    mutator = Mutator(random.Random(1), (), 8)
    assert any(mutator.mutate(b"", b"") for _ in range(50))
