"""The rooms of `helpers`: which may import which, and that none goes round in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

import helpers

ROOT = Path(helpers.__file__).parent
ORDER = (
    "errors",
    "system",
    "data",
    "encoders",
    "models",
    "evaluation",
    "training",
    "serving",
    "runs",
    "phrases",
    "plots",
)
"""Each may import itself and those before it; the command lines and the package itself may import all."""


def name_of(path: Path) -> str:
    """`helpers.data.pairs` of its file, `helpers.data` of its `__init__.py`."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    """`data` of `helpers.data.pairs`; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imported(module: str) -> dict[str, int]:
    """Modules of `helpers` that a module imports, within functions too, each with the line of its first import."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[module]}:{node.lineno}: a relative import; write it from helpers on"
            of = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in of]  # a module of the room, or a name in it
        else:
            continue
        for name in names:
            if name in FILES:
                found.setdefault(name, node.lineno)
    return found


@pytest.mark.parametrize("module", [name for name in FILES if room(name) in ORDER])
def test_a_room_imports_only_those_before_it(module):
    allowed = ORDER[: ORDER.index(room(module)) + 1]
    wrong = [
        f"{FILES[module]}:{line} imports {name}, but {room(module)} may import {', '.join(allowed)} alone"
        for name, line in imported(module).items()
        if room(name) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    try:
        graphlib.TopologicalSorter({name: imported(name) for name in FILES}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
