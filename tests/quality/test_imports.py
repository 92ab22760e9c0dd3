"""Imports run one way.

gateway -> notification; worker -> notification; gateway and worker never meet; notification imports none of ours;
herald may use both sides, but loads them when a command runs; gateway/_fast knows picows, C, the standard library's
C level and notification.limits. A module of notification is there because both sides import it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quality.tree import PACKAGES, ROOT, files, module_name, named

OURS = {*PACKAGES, "tests", "bench", "fuzz"}
MAY_IMPORT = {
    "notification": {"notification"},
    "gateway": {"notification", "gateway"},
    "worker": {"notification", "worker"},
    "herald": {"notification", "herald"},  # at module level; inside functions also gateway and worker
    "devstack": {"notification", "devstack", "worker", "gateway", "herald"},
    # gateway, worker and the twins: what is measured in this process; herald: tokens of the users of bench/locust
    "bench": {"notification", "devstack", "bench", "gateway", "worker", "herald", "tests"},
    "tuning": {"tuning"},  # it runs before anything is installed
}
HERALD_LAZILY = {"worker", "gateway"}
FAST_MAY_CIMPORT = {"picows", "libc", "cpython", "cython", "posix", "gateway._fast"}
FAST_MAY_IMPORT = {"picows", "notification.limits", "cython", "gateway._fast"}

# Modules of notification that one side imports only, each with the reason why it stays.
ONE_SIDED: dict[str, str] = {}
# What only modules of notification import themselves: part of the contract by what they carry.
CONTRACT = {"notification": "the package itself"}


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """(line, full module name) of every import below a node; relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def lazy_lines(tree: ast.Module) -> set[int]:
    """Lines inside functions, which import when they run, and under TYPE_CHECKING, which never do."""
    functions = (
        node for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    )  # fmt: skip
    return {line for function in functions for line in range(function.lineno, (function.end_lineno or 0) + 1)}


def fast_imports(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, "import" or "cimport", full name) of Cython text, `cdef extern from` left out: that is C."""
    pattern = re.compile(
        r"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+(?P<kind>c?import)[ \t]+(?P<names>\([^)]*\)|[^\n]+)"
        r"|(?P<plain>c?import)[ \t]+(?P<modules>[\w., ]+))",
        re.MULTILINE,
    )
    for found in pattern.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        names = (found["names"] or found["modules"]).split("#")[0].strip("() \n").split(",")
        for name in filter(None, (each.split(" as ")[0].strip() for each in names)):
            if not found["base"]:
                yield line, found["plain"], name
            else:
                base = found["base"]
                base = f"gateway._fast.{base.lstrip('.')}".rstrip(".") if base.startswith(".") else base
                yield line, found["kind"], f"{base}.{name}"


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


SOURCES = [path for package in PACKAGES for path in files(package, ".py", ".pyi")]


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_run_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    module = module_name(path)
    package = module.split(".")[0]
    lazy = lazy_lines(tree)
    wrong = []
    for line, name in imports(tree, module):
        top = name.split(".")[0]
        allowed = MAY_IMPORT[package] | (HERALD_LAZILY if package == "herald" and line in lazy else set())
        if top in OURS and top not in allowed:
            wrong.append(f"{named(path)}:{line}: {package} may not import {name} here")
    assert wrong == []


@pytest.mark.parametrize("path", files("gateway/_fast", ".pyx", ".pxd"), ids=named)
def test_fast_code_knows_picows_and_limits_only(path: Path) -> None:
    wrong = []
    for line, kind, module in fast_imports(path.read_text("utf-8")):
        if not within(module, FAST_MAY_CIMPORT if kind == "cimport" else FAST_MAY_IMPORT):
            wrong.append(f"{named(path)}:{line}: {kind} {module}")
    assert wrong == []


@pytest.mark.parametrize("path", files("gateway/_fast", ".py", ".pyi"), ids=named)
def test_fast_stubs_import_no_policy(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    allowed = {"picows", "notification.limits", "gateway._fast", "typing", "collections.abc"}
    wrong = [
        f"{named(path)}:{line}: {name}"
        for line, name in imports(tree, module_name(path))
        if not within(name, allowed)
    ]
    assert wrong == []


def users_of(package: str) -> set[str]:
    """Modules of notification that a package imports."""
    used: set[str] = set()
    for path in files(package, ".py"):
        used |= {name for _, name in imports(ast.parse(path.read_text("utf-8")), module_name(path))}
    for path in files(package, ".pyx", ".pxd"):
        for _, _, name in fast_imports(path.read_text("utf-8")):
            used |= {name, name.rpartition(".")[0]}
    return used


def test_every_module_of_notification_is_shared() -> None:
    shared = {"gateway": users_of("gateway"), "worker": users_of("worker")}
    wrong = []
    for path in files("notification", ".py"):
        module = module_name(path)
        if module in CONTRACT:
            continue
        missing = [side for side, used in shared.items() if module not in used]
        if module in ONE_SIDED:
            if not missing:
                wrong.append(f"{module} is shared now: take it off ONE_SIDED")
        elif missing:
            wrong.append(f"{module} is not imported by {' and '.join(missing)}: it belongs to the other side")
    assert wrong == []


def test_one_composition_root_per_process() -> None:
    """Only process.py (and the entry point before it) builds the outside world's clients."""
    builders = re.compile(r"\b(NatsBus\.connect|connect_pool|AIOKafkaConsumer|Redis\.from_url|open_client)\(")
    allowed = {
        "worker/database.py": "defines connect_pool",
        "worker/log.py": "defines the Kafka log; process.py makes one",
        "worker/dead_letter_reader.py": "what `herald dlq` reads with: a command's own root",
        "worker/redis_client.py": "defines open_client; process.py makes one",
        "worker/operations.py": "Operations.connect: a command's own root",
        "notification/bus.py": "defines NatsBus",
    }
    found = []
    for package in ("gateway", "worker"):
        for path in files(package, ".py"):
            if path.name in ("process.py", "__main__.py") or named(path) in allowed:
                continue
            found += [
                f"{named(path)}:{number}" for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
                if builders.search(line) and not line.lstrip().startswith(("#", "async def", "def"))
            ]  # fmt: skip
    assert found == []
    assert (ROOT / "gateway" / "process.py").exists()
    assert (ROOT / "worker" / "process.py").exists()


def test_the_cython_scan_sees_every_form() -> None:
    """The gate above reads text, so it is tested itself."""
    text = (
        "from notification import limits\nfrom . cimport wheel\n"
        "from libc.string cimport (\n    memcpy,\n    memset,\n)\n"
        "    import asyncio, json as j\ncimport cython\nfrom worker.store import x  # why\n"
    )
    assert list(fast_imports(text)) == [
        (1, "import", "notification.limits"), (2, "cimport", "gateway._fast.wheel"),
        (3, "cimport", "libc.string.memcpy"), (3, "cimport", "libc.string.memset"), (7, "import", "asyncio"),
        (7, "import", "json"), (8, "cimport", "cython"), (9, "import", "worker.store.x"),
    ]  # fmt: skip
