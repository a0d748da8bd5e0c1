"""Claims about the house: which room may import which, and where torch is."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {  # room -> the rooms it may import
    "core": set(),
    "tasks": {"core"},
    "measures": {"core"},
    "lm": {"core"},
    "run": {"core", "tasks", "measures", "lm", "data", "model"},
    "reports": {"core", "measures"},
}
DOORS = {"experiment", "model", "data", "viz", "test_debug"}
FILES = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).glob("*.py"))]
HEAVY = {"torch", "transformers", "accelerate"}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports_of(module: str, at_start_only: bool = False) -> set[str]:
    """Modules that a file imports, at its top or anywhere; ours by their full names."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= whole & set(MODULES) or {node.module}
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_a_room_imports_only_the_rooms_below_it(module):
    room = module.partition(".")[0]
    ours = {name.partition(".")[0] for name in imports_of(module)} & (set(ROOMS) | DOORS)
    assert ours - {room} <= ROOMS[room]


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: imports_of(name) & set(MODULES) for name in MODULES}
    assert list(TopologicalSorter(graph).static_order())


def test_beside_the_doors_no_python_file_lies_at_the_top():
    assert {name for name in MODULES if "." not in name} == DOORS | set(ROOMS)


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not name.startswith(("lm", "model"))]
)
def test_torch_is_imported_by_models_only(module):
    heavy = {name.partition(".")[0] for name in imports_of(module, at_start_only=True)} & HEAVY
    assert not heavy
