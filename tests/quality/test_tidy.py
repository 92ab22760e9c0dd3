"""Small things that rot when nobody looks: sizes, twins, literals, leftovers."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from notification import names
from tests.quality.tree import PACKAGES, ROOT, files, module_name, named, numbered, python_sources

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# `# Long: one state machine, read as one` at the top of a long file or function says why it is long.
REASON = re.compile(r"#\s*Long:", re.IGNORECASE)
TEXT_SUFFIXES = (".py", ".pyi", ".pyx", ".pxd", ".md", ".sql", ".js", ".css", ".html")
TEXTS = [path for folder in (*PACKAGES, "tests", "fuzz", "docs") for path in files(folder, *TEXT_SUFFIXES)]
TEXTS += [*sorted(ROOT.glob("*.md")), ROOT / "pyproject.toml", ROOT / "setup.py"]
SOURCES = [*python_sources(), *files("gateway", ".pyx", ".pxd", ".pyi")]
PYX = files("gateway/_fast", ".pyx")


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_long_file(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    if len(lines) > FILE_LINES_MAX:
        assert REASON.search("\n".join(lines[:30])), (
            f"{named(path)} has {len(lines)} lines and no `# Long: reason` at its top"
        )


@pytest.mark.parametrize("path", python_sources(), ids=named)
def test_no_long_function(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.splitlines()
    wrong = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX and not REASON.search(
                "\n".join(lines[node.lineno - 2 : node.lineno + 8])
            ):
                wrong.append(f"{named(path)}:{node.lineno} {node.name} has {length} lines")
    assert wrong == []


def inside(line: str, indent: int) -> bool:
    """Whether a line still belongs to a function that starts at `indent`."""
    bare = line.lstrip()
    return not bare or len(line) - len(bare) > indent or bare.startswith(")")


@pytest.mark.parametrize("path", PYX, ids=named)
def test_no_long_cython_function(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    starts = re.compile(r"^( *)(?:async )?(?:def|cdef|cpdef)\b(?!\s+(?:class|extern|enum|struct)\b)[^=]*\(")
    wrong = []
    for at, line in enumerate(lines):
        found = starts.match(line)
        if found is None:
            continue
        indent = len(found[1])
        body = at + 1
        while body < len(lines) and inside(lines[body], indent):
            body += 1
        length = len("\n".join(lines[at:body]).rstrip().splitlines())
        if length > FUNCTION_LINES_MAX and not REASON.search("\n".join(lines[max(0, at - 1) : at + 8])):
            wrong.append(f"{named(path)}:{at + 1} has {length} lines")
    assert wrong == []


def test_there_is_fast_code() -> None:
    assert {path.stem for path in PYX} >= {"session", "connection", "engine", "registry", "wheel"}


@pytest.mark.parametrize("path", PYX, ids=named)
def test_fast_code_comes_with_declarations_stub_and_twin(path: Path) -> None:
    missing = [suffix for suffix in (".pxd", ".pyi") if not path.with_suffix(suffix).exists()]
    assert missing == []
    if path.stem in ("connection", "doors", "engine", "socket_set"):
        return  # carriers: their twins would be picows and the kernel; tests run each contract over both
    twin = ROOT / "tests" / "reference" / f"{path.stem}.py"
    assert twin.exists(), f"{named(path)} has no twin {named(twin)}"
    assert ast.get_docstring(ast.parse(twin.read_text("utf-8"))), f"{named(twin)} does not say whose twin it is"


@pytest.mark.parametrize("path", PYX, ids=named)
def test_the_compiled_extension_is_what_loads(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    assert str(module.__file__).endswith(".so"), f"{module.__name__} is {module.__file__}: build it"


def test_twins_stay_out_of_production() -> None:
    found = [
        f"{named(path)}:{number}" for package in set(PACKAGES) - {"bench"} for path in files(package, ".py", ".pyx")
        for number, line in numbered(path) if re.search(r"\b(from|import) tests\b", line)
    ]  # fmt: skip
    assert found == []


def fixed_names() -> list[str]:
    """Topics, subjects and keys, and the constant beginnings of those that are built."""
    fixed = [value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)]
    built = [
        names.gateway_subject("\0", "\0"), names.audience_subject("\0", "\0"), names.health_subject("\0"),
        names.ack_subject("\0"), names.presence_key("\0"), names.lease_key("\0"),
    ]  # fmt: skip
    starts = [text.split("\0")[0] for text in built]
    # One plain word ("receipts", "inbox", "b") is also a role, a queue, a field: only marked names can be found.
    return sorted({text for text in [*fixed, *names.TOPICS, *starts] if re.search(r"[.:]", text)} - {"ack."})


def string_constants(path: Path) -> list[tuple[int, str]]:
    """(line, text) of every string in the code, docstrings left out."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {
        id(node.body[0].value) for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    return [
        (node.lineno, node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]  # fmt: skip


def test_names_are_spelled_in_one_place() -> None:
    fixed = fixed_names()
    assert names.STATUS_SUBJECT in fixed
    found = []
    for package in PACKAGES:
        for path in files(package, ".py"):
            if path == ROOT / "notification" / "names.py":
                continue
            for line, text in string_constants(path):
                found += [f"{named(path)}:{line}: {text!r}" for name in fixed if text.startswith(name)]
    assert found == []


def test_sql_lives_in_modules_that_own_it() -> None:
    """SQL is the worker's: no other package speaks it."""
    statement = re.compile(r"^\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|WITH)\s", re.MULTILINE)
    found = [
        f"{named(path)}:{line}" for package in ("notification", "gateway", "herald")
        for path in files(package, ".py") for line, text in string_constants(path) if statement.search(text)
    ]  # fmt: skip
    assert found == []


LEFTOVERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
PRIVATE = re.compile(r"(?<![\w./~-])/(work|root|home/\w+|tmp/w)(?=/|\b)|DESIGN\.md|STYLE\.md|BRIEF\.md|\.\./shared")


@pytest.mark.parametrize("path", [path for path in TEXTS if path != Path(__file__)], ids=named)
def test_nothing_left_over(path: Path) -> None:
    wrong = [
        f"{named(path)}:{number}: {line.strip()[:90]}"
        for number, line in numbered(path)
        if LEFTOVERS.search(line) or PRIVATE.search(line)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [path for package in PACKAGES for path in files(package, ".py")], ids=named)
def test_no_swallowed_exception(path: Path) -> None:
    """`except Exception` and wider say why, on the line; an empty body never follows them."""
    tree = ast.parse(path.read_text("utf-8"))
    lines = path.read_text("utf-8").splitlines()
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if broad and not raises and "#" not in "".join(lines[node.lineno - 2 : node.lineno + 1]):
            wrong.append(f"{named(path)}:{node.lineno}: a broad except without a reason")
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    silent = [
        named(path) for path in files(package, ".py")
        if path.read_text("utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]  # fmt: skip
    assert silent == []
