"""Real Chromium for the tests of pages: a desk may lack it, CI may not."""

import html
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

BINARY = Path("/usr/bin/chromium")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
DARK = "--blink-settings=preferredColorScheme=0"
PATIENCE = 50  # seconds; a page takes two, and a busy machine is forgiven


def require() -> None:
    """Skip without Chromium on a desk; in CI fail, for there it must be installed."""
    if BINARY.exists():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{BINARY} is missing; .ci/run installs it: apt-get install -y chromium")
    pytest.skip(f"{BINARY} is not installed")


def run(folder: Path, *options: str) -> str:
    """Run Chromium with a profile of its own, which lies in ``folder``."""
    ran = subprocess.run(
        [str(BINARY), *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return ran.stdout


def measured(
    folder: Path, pages: dict[str, str], script: str, *, widths: tuple[int, ...], dark: bool
) -> list[dict[str, Any]]:
    """Show each page in frames of several widths, and return what ``script`` finds there.

    The script is the body of ``function (frame, view) { ... }``: view is the frame's window, whose
    document it may look into from outside, whatever the page's own policy forbids.
    """
    frames = "\n".join(
        f'<iframe title="{name}" width="{width}" height="900" srcdoc="{html.escape(page)}">'
        "</iframe>"
        for name, page in pages.items()
        for width in widths
    )
    outer = f"""<!doctype html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
const look = function (frame, view) {{ {script} }};
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) =>
    Object.assign({{ page: frame.title, width: frame.clientWidth }},
      look(frame, frame.contentWindow)));
  document.querySelector("#found").textContent = JSON.stringify(found);
}});
</script>"""
    file = folder / "outer.html"
    file.write_text(outer, encoding="utf-8")
    options = (DARK,) if dark else ()
    dom = run(folder, *options, "--virtual-time-budget=10000", "--dump-dom", file.as_uri())
    _, _, rest = dom.partition('<pre id="found">')
    found: list[dict[str, Any]] = json.loads(html.unescape(rest.partition("</pre>")[0]))
    return found
