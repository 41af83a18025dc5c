"""Documents cannot drift: what README shows is what the program prints.

`SAFETY_GATE_UPDATE_GOLDENS=1` rewrites the parts between the markers.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from safety_gate import __version__
from safety_gate.cli import cli
from safety_gate.cli_parts import STATUS
from safety_gate.records import METRICS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CHECK = ROOT / "docs" / "check.md"


def run(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line of README, at a width that fits it."""
    words = command.split()
    assert words[0] == "safety-gate"
    return subprocess.run(
        [sys.executable, "-m", "safety_gate", *words[1:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )


def shown(output: str, language: str) -> str:
    """Return output as a fenced block."""
    return f"\n```{language}\n{output.strip()}\n```\n"


def part(name: str, body: str, page: Path = README) -> None:
    """Compare one marked part of a page with what it should be."""
    text = page.read_text()
    start, stop = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    assert text.count(start) == text.count(stop) == 1
    before, rest = text.split(start)
    found, after = rest.split(stop)
    if os.environ.get("SAFETY_GATE_UPDATE_GOLDENS") == "1":
        page.write_text(f"{before}{start}{body}{stop}{after}")
        return
    assert found == body, f"{page.name}: the part {name!r} is not what the program prints"


def test_the_report_in_the_documents_is_what_the_command_prints() -> None:
    command = re.findall(r"^\$ (safety-gate check examples\S+.*)$", CHECK.read_text(), re.M)[0]
    result = run(command)
    assert result.returncode == 1
    part(
        "report", shown("\n".join(li.rstrip() for li in result.stdout.splitlines()), "text"), CHECK
    )


def test_the_help_in_the_documents_is_what_the_program_prints() -> None:
    part("help", shown(run("safety-gate check --help").stdout, "text"), CHECK)


def test_the_workflow_in_readme_is_the_example() -> None:
    """Without whole lines of comment, and without words for the linter."""
    lines = (ROOT / "examples/workflows/minimal.yml").read_text().splitlines()
    kept = [line.split(" # zizmor:")[0] for line in lines if not line.lstrip().startswith("#")]
    part("workflow", shown("\n".join(kept), "yaml"))


def test_the_exit_table_agrees_with_the_program() -> None:
    table = re.findall(r"^\| (\d+) \| (.+) \|$", README.read_text(), re.M)
    assert [int(code) for code, _ in table] == [0, 1, 2, 3, 70]
    for code, meaning in table:
        word = meaning.split(":")[0]
        assert f"{code} {word}".lower() in STATUS.lower(), (code, word)
    assert STATUS.split(".")[0] in " ".join(run("safety-gate --help").stdout.split())


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert all(f"`{metric}`" in text for metric in METRICS)


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_readme_names_every_command(name: str) -> None:
    assert re.search(rf"(?:safety-gate |make |`){name}\b", README.read_text())


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_somebody_finds_every_page(page: Path) -> None:
    others = [README, *(other for other in ROOT.glob("docs/*.md") if other != page)]
    assert any(f"{page.name})" in o.read_text() or f"{page.name}#" in o.read_text() for o in others)


@pytest.mark.parametrize(
    "page", sorted(p for p in ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
