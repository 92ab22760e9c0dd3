"""The C parts, compiled on first use into build/bench/."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from notification.errors import SettingsError

_SOURCES: Final = Path(__file__).parent / "native"
BUILD: Final = Path(__file__).parents[1] / "build" / "bench"
_FLAGS: Final = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Werror")
_LIBRARIES: Final = ("-ldl", "-lpthread")


def program(name: str, tls: bool = False) -> Path:
    """The compiled `native/NAME.c`, named by the digest of all sources; `tls`: with OpenSSL.

    Raises SettingsError without a compiler or OpenSSL's headers.
    """
    flags = (*_FLAGS, "-DBENCH_TLS") if tls else _FLAGS
    digest = hashlib.sha256(" ".join(flags).encode())
    for source in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    target = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if not target.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            raise SettingsError("python -m bench needs a C compiler: apt-get install gcc")
        libraries = (*_LIBRARIES, "-lssl", "-lcrypto") if tls else _LIBRARIES
        BUILD.mkdir(parents=True, exist_ok=True)
        half = target.with_suffix(".new")
        result = subprocess.run(
            [compiler, *flags, "-o", str(half), str(_SOURCES / f"{name}.c"), *libraries],
            capture_output=True,
            text=True,
        )
        if "openssl/ssl.h" in result.stderr:
            raise SettingsError("TLS in python -m bench needs OpenSSL's headers: apt-get install libssl-dev")
        if result.returncode != 0:
            raise SettingsError(f"{name}.c does not compile:\n{result.stderr}")
        half.replace(target)
    return target
