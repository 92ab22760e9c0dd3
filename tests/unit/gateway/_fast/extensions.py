"""The modules of gateway/_fast and their twins, for test classes that run over both."""

from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any

import pytest


def is_extension(module: ModuleType) -> bool:
    """Compiled code, not a .py that happens to have the name."""
    return str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


def both(extension: ModuleType, twin: ModuleType) -> Any:
    """Run a test class over the extension and over its plain-Python twin, as `module`."""
    return pytest.mark.parametrize("module", [extension, twin], ids=["extension", "twin"])
