"""Whole reports as they were agreed on.

They change only on purpose: SAFETY_GATE_UPDATE_GOLDENS=1 writes them anew.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from safety_gate.records import Report
from safety_gate.report.json_report import to_json
from safety_gate.report.markdown import render_markdown
from safety_gate.report.terminal import render_text
from tests.sample_reports import asked, blocked, hostile, passed, undecided

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("SAFETY_GATE_UPDATE_GOLDENS") == "1"


def to_text(report: Report) -> str:
    file = io.StringIO()
    render_text(report, Console(file=file, width=80, force_terminal=False, color_system=None))
    return file.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {
    "md": render_markdown,
    "txt": to_text,
    "json": to_json,
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("sample", [passed, blocked, undecided, hostile, asked])
def test_report_is_as_agreed(sample: Callable[[], Report], suffix: str) -> None:
    text = FORMATS[suffix](sample())
    golden = GOLDEN / f"report_{sample.__name__}.{suffix}"
    if UPDATE:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
