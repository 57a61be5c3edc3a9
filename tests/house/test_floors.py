"""The house stands: imports only point down, each heavy library has one home."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sso_data"

FLOORS: dict[str, int] = {
    room: floor
    for floor, rooms in enumerate(
        (
            ("", "core"),
            ("config",),
            ("prompts", "templating", "runs"),
            ("models", "filtering"),
            ("engines", "training"),
            ("chat",),
            ("steering",),
            ("generation", "world", "exporting"),
            ("augmentation", "publishing", "doctor", "demo", "evaluation"),
            ("reporting",),
            ("iteration", "verification"),
            ("api",),
            ("cli",),
            ("__main__",),
        )
    )
    for room in rooms
}
"""The floor of each room; a room may import from lower floors and from itself."""

HOMES = {
    "vllm": {"engines"},
    "transformers": {"models", "engines", "training", "templating"},
    "torch": {"models", "engines", "doctor", "training"},
    "pyarrow": {"runs", "prompts"},
    "jsonlines": {"runs"},
    "datasets": {"prompts"},
    "huggingface_hub": {"publishing", "models", "prompts"},
    "typer": {"cli"},
    "rich": {"cli"},
    "jinja2": {"core"},
    "ruamel": {"core"},
    "yaml": {"core"},
    "openai": {"chat"},
    "httpx": {"engines"},
    "ray": {"engines"},
    "grpc": {"engines"},
    "pynvml": {"engines"},
    "py3langid": {"core"},
    "peft": {"models", "engines", "training"},
    "rensa": {"augmentation"},
    "accelerate": {"training"},
    "matplotlib": {"publishing", "training"},
}
"""Where each heavy library may be imported."""

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_modules(file: Path) -> list[str]:
    """Every module a file imports, in functions and under TYPE_CHECKING too."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            found += [f"{module}.{a.name}" if module == "sso_data" else module for a in node.names]
    return found


def imports_of(file: Path, names: set[str]) -> set[str]:
    """The modules of the package that a file imports when it is run, in functions too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & names or {
                str(node.module)
            }
    return found & names


def test_no_module_imports_itself_by_way_of_others() -> None:
    """But for the door, which gives out names on demand."""
    modules = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in FILES
    }
    modules = {name.removesuffix(".__init__"): file for name, file in modules.items()}
    names = set(modules) - {"sso_data"}
    graph = {name: imports_of(modules[name], names) - {name} for name in names}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


def test_every_room_has_a_floor() -> None:
    assert {room_of(file) for file in FILES} == set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    room = room_of(file)
    for module in imported_modules(file):
        if not module.startswith("sso_data"):
            continue
        target = module.split(".")[1] if "." in module else ""
        if target not in FLOORS:
            target = ""  # a name of the package itself, such as __version__
        is_door = room == "" and target in ("api", "core")  # names given out on demand
        allowed = FLOORS[target] < FLOORS[room] or target == room or is_door
        assert allowed, f"{room} (floor {FLOORS[room]}) imports {module} (floor {FLOORS[target]})"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_live_at_home(library: str) -> None:
    visitors = {
        room_of(file)
        for file in FILES
        if any(module.split(".")[0] == library for module in imported_modules(file))
    }
    assert visitors <= HOMES[library]


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{file.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno > 70
    ]
    assert not long


def test_only_the_demo_and_judges_meet_the_tiny_world() -> None:
    visitors = {
        room_of(file)
        for file in FILES
        if any(module.startswith("sso_data.world") for module in imported_modules(file))
    }
    assert visitors <= {"demo", "evaluation", "world"}
