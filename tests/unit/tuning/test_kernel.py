"""Values as the kernel prints them."""

from pathlib import Path

import pytest

from tuning import kernel
from tuning.errors import TuneError


def test_a_key_is_a_path_and_a_path_is_itself() -> None:
    assert kernel.path_of("net.core.somaxconn") == Path("/proc/sys/net/core/somaxconn")
    assert kernel.path_of("/sys/kernel/x") == Path("/sys/kernel/x")


def test_reading_and_writing(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text("4096\t16384\n")
    assert kernel.read(str(value)).value == "4096\t16384"
    assert kernel.numbers(kernel.write(str(value), "1 2")) == (1, 2)
    value.write_text("always [madvise] never\n")
    assert kernel.read(str(value)).value == "madvise"


def test_what_is_not_there_or_not_to_be_written_says_so(tmp_path: Path) -> None:
    assert kernel.read("net.core.nothing_of_the_kind").value is None
    assert "does not have it" in (kernel.read("net.core.nothing_of_the_kind").locked or "")
    assert (kernel.read(str(tmp_path)).locked or "").startswith("it cannot be read")
    value = tmp_path / "value"
    value.write_text("1")
    value.chmod(0o444)
    assert kernel.read(str(value)).fixed
    with pytest.raises(TuneError, match="nothing = 1"):
        kernel.write("net.core.nothing", "1")
    with pytest.raises(TuneError, match="expected numbers"):
        kernel.numbers("many")
