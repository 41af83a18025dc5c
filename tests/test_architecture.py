"""The house rules that a machine can hold: imports point one way, and stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "safety_gate"

# Lowest first. A file may import only from rooms that stand before its own, and from files of its
# own room that do not import it back (no cycle, held below).
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("rates", "roc"),
    ("behaviour",),
    ("records",),
    ("sources", "strict_json"),
    ("tensors", "precision"),
    ("weights", "weight_files"),
    ("quantised",),
    ("checkpoint",),
    ("naming",),
    ("adapter",),
    ("products",),
    ("drift",),
    ("delta",),
    ("outcomes",),
    ("vocabulary",),
    ("steps",),
    ("scorer",),
    ("engine",),
    ("probe",),
    ("policy",),
    ("report",),
    ("publish",),
    ("repair",),
    ("tokens",),
    ("places", "pairing", "rounding"),
    ("tasks", "asking", "choosing", "inspecting"),
    ("case",),
    ("measuring", "summing"),
    ("gate",),
    ("trials",),
    ("calibration",),
    ("repairing",),
    ("jobs",),
    ("worker",),
    ("demo", "action"),
    ("bot",),
    ("page",),
    ("cli_parts",),
    ("cli_bot_parts", "cli_reports"),
    ("cli_hub_job", "cli_repair_show"),
    ("cli_repair", "cli_bot", "cli_webhook", "cli_audit", "cli_calibrate", "cli_inspect"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: height for height, room in enumerate(ROOMS) for name in room}


def modules() -> dict[str, Path]:
    """Return every file of the package by dotted name below it; ``__init__`` stands for all."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts)] = path
    return found


FILES = modules()


def imports(path: Path) -> set[str]:
    """Return our own modules that a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("safety_gate.") for a in node.names if _ours(a.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            below = node.module.removeprefix("safety_gate").lstrip(".")
            for alias in node.names:
                dotted = f"{below}.{alias.name}".lstrip(".")
                found.add(dotted if dotted in FILES else below)
    return found - {""}  # the package root holds only the version


def _ours(name: str) -> bool:
    return name == "safety_gate" or name.startswith("safety_gate.")


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", [n for n in FILES if n != "__init__"])
def test_imports_point_one_way(name: str) -> None:
    own = LEVEL[room(name)]  # a file without a room is a KeyError, on purpose
    uphill = {i for i in imports(FILES[name]) if room(i) != room(name) and LEVEL[room(i)] >= own}
    assert not uphill, f"{name} reaches up to {uphill}"


def test_the_picture_has_every_room_once() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    picture = page.split("```")[1]
    drawn = re.findall(r"(\w+)(?:\.py\b|/ )", picture)
    assert sorted(drawn) == sorted(name for group in ROOMS for name in group)


def test_no_import_runs_in_a_circle() -> None:
    graph = {name: imports(path) & set(FILES) for name, path in FILES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_small(name: str) -> None:
    text = FILES[name].read_text()
    assert text.count("\n") <= 400, "more than 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_broad_excepts_stand_only_in_doors() -> None:
    broad = {
        name
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert broad <= {"cli", "action.door", "worker.loop", "delta.child"}  # doors, and one job


def heavy_after(statement: str, heavy: tuple[str, ...]) -> set[str]:
    """Return which of these packages are loaded after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "jinja2", "transformers", "peft", "rich")
    assert heavy_after("import safety_gate.cli", heavy) == set()


def test_scoring_needs_neither_transformers_nor_peft() -> None:
    """Judge a real adapter, then look at what was loaded."""
    judge = (
        "import datetime, pathlib, safety_gate.gate as g\n"
        "from tests.small_checkpoints import write_trio\nimport tempfile\n"
        "base, aligned, adapter = write_trio(pathlib.Path(tempfile.mkdtemp()))\n"
        "report = g.judge(g.Request(adapter=adapter, base=base, aligned=aligned,"
        " today=datetime.date(2026, 1, 1)))\nassert report.total is not None"
    )
    loaded = heavy_after(judge, ("torch", "transformers", "peft", "pickle5"))
    assert loaded == {"torch"}
