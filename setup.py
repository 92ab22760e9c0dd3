"""The Cython extensions of gateway/_fast; everything else about the package is in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = sorted(Path("gateway/_fast").glob("*.pyx"))

setup(
    ext_modules=cythonize(
        [Extension(".".join(source.with_suffix("").parts), [str(source)]) for source in SOURCES],
        build_dir="build/cython",
        # boundscheck and wraparound stay on; a proven loop turns them off for itself.
        compiler_directives={"language_level": 3, "binding": False},
    ),
)
