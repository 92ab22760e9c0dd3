"""The extensions once more, with sanitisers and coverage, below build/fuzz; the normal build is not touched."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "fuzz"
LIBRARY: Final = FOLDER / "lib"
COVERAGE: Final = FOLDER / "coverage.so"

_SANITISE: Final = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"


def build() -> None:
    """Bring both up to date. Raises CalledProcessError."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = ROOT / "fuzz" / "coverage.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(COVERAGE), str(source)], check=True)
    environment = os.environ | {"CC": "gcc", "CFLAGS": f"{_SANITISE} -fsanitize-coverage=trace-pc"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(LIBRARY)]
    subprocess.run([*command, "--build-temp", str(FOLDER / "objects")], cwd=ROOT, env=environment, check=True)


def environment() -> dict[str, str]:
    """What a process that loads the sanitised extensions must be started with."""
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return os.environ | {
        "LD_PRELOAD": f"{runtime} {COVERAGE}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that each object is an allocation that the sanitiser knows
        "PYTHONPATH": str(ROOT),
    }


def use_sanitised() -> None:
    """Import gateway._fast from the sanitised build. Call before anything of it is imported."""
    import gateway._fast

    assert not any(name.startswith("gateway._fast.") for name in sys.modules), "too late"
    gateway._fast.__path__.insert(0, str(LIBRARY / "gateway" / "_fast"))


def check_sanitised() -> None:
    """Call when a target is loaded: an extension of the normal build would hide what it does."""
    loaded = [module for name, module in sys.modules.items() if name.startswith("gateway._fast.")]
    normal = [str(module.__file__) for module in loaded if str(module.__file__).endswith(".so")]
    wrong = [path for path in normal if not path.startswith(str(LIBRARY))]
    assert not wrong, f"not sanitised: {wrong}"
