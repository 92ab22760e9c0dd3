"""Every input of fuzz/corpus and every seed, over the normal build: what was found once stays found."""

import pytest

from fuzz.target import CORPUS, INPUT_BYTES_MAX, kept, load, names

ALL_BYTES_MAX = 200_000


@pytest.mark.parametrize("name", names())
def test_known_inputs(name: str) -> None:
    target = load(name)
    inputs = [*target.seeds, *kept(name)]
    assert inputs
    for data in inputs:
        target.run(data)
        if target.repair is not None:
            target.run(target.repair(data))


def test_the_corpus_is_small_and_of_known_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(names())
    sizes = [path.stat().st_size for path in files]
    assert sum(sizes) < ALL_BYTES_MAX
    assert max(sizes, default=0) <= INPUT_BYTES_MAX
