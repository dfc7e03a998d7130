"""The wall between what travels with a checkpoint and what stays at home, read off the imports."""

import ast
import sys
from pathlib import Path

import pytest

import modeling_mm_orient
from modeling_mm_orient.runs.hub import travelling_files
from modeling_mm_orient.tasks import KINDS

PACKAGE = Path(modeling_mm_orient.__file__).parent
# what a room may import from: itself, and those after it
ROOMS = ("cli", "runs", "features", "data", "ground")
FOR_THE_GROUND = {"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"}
GROUND = [path for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__")]
HOME = [path for room in ROOMS[:-1] for path in PACKAGE.joinpath(room).rglob("*.py")]


def imported(path: Path) -> list[ast.ImportFrom | ast.Import]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))]


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "ground"


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a file's relative imports lead to."""
    found = set()
    for node in imported(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(PACKAGE).parts[: -node.level] if node.level <= len(path.parts) else ()
            target = PACKAGE.joinpath(*inside, *(node.module or "").split("."))
            if target == PACKAGE:  # the package itself: `from .. import name`
                found |= {name.name for name in node.names if name.name in ROOMS}
            else:
                found.add(room_of(target.with_suffix(".py")) if not target.is_dir() else room_of(target / "x.py"))
    return found


@pytest.mark.parametrize("path", GROUND, ids=lambda path: path.stem)
def test_the_ground_floor_imports_its_neighbours_and_what_everyone_has(path):
    optional = path.stem == "optional_dependencies"
    for node in imported(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, (
                f"line {node.lineno}: remote code is flat"
            )
            assert (PACKAGE / f"{node.module}.py") in GROUND, f"line {node.lineno} imports {node.module}"
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            assert optional or top in FOR_THE_GROUND or top in sys.stdlib_module_names, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", HOME, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_downwards(path):
    own = room_of(path)
    below = set(ROOMS[ROOMS.index(own) :])
    assert rooms_imported(path) <= below, f"{own} imports {rooms_imported(path) - below}"


def test_the_readers_of_imports_see_what_goes_up(tmp_path):
    assert rooms_imported(PACKAGE / "runs" / "training.py") >= {"data", "features", "ground", "runs"}
    assert rooms_imported(PACKAGE / "cli" / "using.py") >= {"cli", "runs", "data"}


def test_no_circle_on_the_ground_floor():
    imports = {
        path.stem: {n.module for n in imported(path) if isinstance(n, ast.ImportFrom) and n.level} for path in GROUND
    }
    while imports:
        free = {name for name, needed in imports.items() if not needed & set(imports)}
        assert free, f"these import each other: {sorted(imports)}"
        imports = {name: needed for name, needed in imports.items() if name not in free}


def test_the_whole_ground_floor_travels_and_nothing_else():
    assert sorted(travelling_files()) == sorted(GROUND)


@pytest.mark.parametrize("path", [*GROUND, *HOME], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_kinds_of_task_are_named_in_one_file(path):
    # metrics.py is a local `evaluate` module, whose configurations bear these names
    if path.name in ("tasks.py", "metrics.py"):
        return
    tree = ast.parse(path.read_text())
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    named = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in KINDS and id(n) not in docs]
    assert not named, f"line {named[0].lineno} says {named[0].value!r}"


@pytest.mark.parametrize("path", [*GROUND, *HOME], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_attribute_is_named_by_an_f_string(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in ("getattr", "setattr", "hasattr"):
            assert not isinstance(call.args[1], ast.JoinedStr), f"line {call.lineno}"
