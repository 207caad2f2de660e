"""The house as drawn: what may import what, how long a thing may be, and what a quick command must not load."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "gandid"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up: a room may know those below it and those of its own floor, as long as there is no circle.
FLOORS = [
    {"errors", "files"},
    {"interventions", "outcomes", "stats", "verdicts", "factory", "latents", "lazy", "text", "threads", "truth"},
    {"generators", "segmenters"},
    {"panel"},
    {"ranking", "estimation"},
    {"measure"},
    {"config", "runs", "execution", "study"},
    {"report", "app", "terminal", "options", "cli"},
    {"gandid", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LIGHT = ("estimation", "panel", "stats", "outcomes", "config", "runs", "text", "truth", "verdicts")


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def room(path: Path) -> str:
    """The room of a file: a package or a module directly under `gandid`, and `gandid` itself for its `__init__`."""
    first = path.relative_to(PACKAGE).parts[0]
    return "gandid" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.Module) -> list[tuple[str, str]]:
    """(module, name) of every import of gandid, wherever it stands, those for type checkers alone excepted."""
    found, skipped = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if (node.module or "").split(".")[0] == "gandid":
                found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "gandid"]
    return found


def rooms_imported(tree: ast.Module) -> set[str]:
    rooms = set()
    for module, name in imported(tree):
        parts = [*module.split("."), name][1:]
        rooms.add(parts[0] if parts[0] in FLOOR else "gandid")
    return rooms


def test_no_arrow_points_upwards_and_no_rooms_import_each_other_in_a_circle():
    assert {room(path) for path in FILES} == set(FLOOR)
    graph = defaultdict(set)
    upwards = []
    for path, tree in trees().items():
        here = room(path)
        for other in rooms_imported(tree) - {here}:
            graph[here].add(other)
            if FLOOR[other] > FLOOR[here]:
                upwards.append(f"{path.relative_to(PACKAGE)} -> {other}")
    assert upwards == []
    assert {"estimation"} & graph["ranking"] == set() == {"ranking"} & graph["estimation"]
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_modules_import_each_other_in_a_circle():
    """Within a room, too; what is imported within a function counts."""
    names = {".".join(("gandid", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        targets = set()
        for module, member in imported(trees()[path]):
            targets.add(f"{module}.{member}" if f"{module}.{member}" in names else module)
        # A package's __init__ gathers what is in it.
        graph[name] = {target for target in targets if target in names and not name.startswith(f"{target}.")}
    graph.pop("gandid")
    TopologicalSorter(graph).prepare()


def test_nothing_private_is_imported():
    private = [
        f"{path.relative_to(PACKAGE)}: {module}.{name}"
        for path, tree in trees().items()
        for module, name in imported(tree)
        if name.startswith("_") and name != "__version__"
    ]
    assert private == []


def test_a_class_has_its_name_for_itself():
    names = Counter(node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_functions_and_modules_are_short():
    long = []
    for path, tree in trees().items():
        where, text = path.relative_to(PACKAGE), path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 450:
            long.append(str(where))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 80:
                long.append(f"{where}: {node.name}")
    assert long == []


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('modules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["run", "--help"],
        ["run", "--latens", "3"],
        ["run", "--control", "thawed"],
        [],
    ],
)
def test_help_and_wrong_usage_load_nothing_slow(arguments):
    modules = loaded(f"from gandid.cli import main; main({arguments!r})")
    assert modules.isdisjoint({"torch", "numpy", "pandas", "xarray", "zarr", "scipy", "matplotlib", "yaml"})
    assert "pydantic.plugin._loader" not in modules  # no settings are checked: their rules need not be built
    assert "gandid.config" in modules


def test_what_needs_no_network_does_not_load_torch():
    assert "torch" not in loaded("; ".join(f"import gandid.{name}" for name in LIGHT))


def test_the_names_of_the_package_are_there():
    import gandid

    assert callable(gandid.did) and isinstance(gandid.__version__, str)
    assert all(
        hasattr(gandid, name) for name in ("Study", "load_generator", "load_segmenter", "GandidError", "UsageError")
    )
