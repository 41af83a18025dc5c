"""Draws the comment on the harmful example as GitHub shows it: docs/pictures/comment.png.

    python -m benchmarks.comment_picture

Needs Chromium with fonts (on Debian fonts-liberation and fonts-noto-color-emoji), and npm for
GitHub's style sheet (github-markdown-css, MIT), which is not kept here.
"""

import datetime
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image, ImageChops

from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.publish.body import comment_body
from safety_gate.publish.publication import Judged, Publication
from tests import chromium

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "comment.png"
STYLES = "github-markdown-css@5.9.0"
WIDTH, SCALE = 900, 1.5  # pixels of the page, and of the picture for each of them
TALLEST = 2000  # of the page; blank room below the comment is cut off
ENDS = "<h3>Findings"  # the picture shows what comes before; tables and lists go on below it
COLOURS = 255
ADAPTER = "adapters/support"
RUN = "https://github.com/octo/adapters/actions/runs/4711"

PAGE = """<!doctype html><meta charset="utf-8"><style>{styles}
body {{ margin: 16px; background: #ffffff; font-family: -apple-system, "Segoe UI", sans-serif; }}
.comment {{ border: 1px solid #d1d9e0; border-bottom: 0; border-radius: 6px 6px 0 0; }}
.head {{ padding: 8px 16px; background: #f6f8fa; border-bottom: 1px solid #d1d9e0; color: #59636e;
  border-radius: 6px 6px 0 0; font-size: 14px; }}
.head b {{ color: #1f2328; }}
.head span {{ border: 1px solid #d1d9e0; border-radius: 2em; padding: 0 7px; font-size: 12px; }}
.markdown-body {{ padding: 16px; font-size: 14px; }}
</style><div class="comment">
<div class="head"><b>github-actions</b> <span>bot</span> commented</div>
<article class="markdown-body">{body}</article></div>"""


def comment() -> str:
    """Return the Markdown that the action posts for the harmful example."""
    tiny = Path("examples/tiny")  # as a workflow names it
    report = gate.judge(
        gate.Request(
            adapter=tiny / "harmful",
            base=tiny / "base",
            aligned=tiny / "aligned",
            today=datetime.datetime.now(tz=datetime.UTC).date(),
            ask=Ask(
                mode="openings", prompts=tiny / "prompts.jsonl", openings=tiny / "openings.json"
            ),
        )
    )
    publication = Publication(
        gate_id="safety-gate",
        commit="4f1c" * 10,
        judged=(Judged(name=ADAPTER, report=report),),
        note="Judged: 1 adapter that this pull request changes.",
        run_url=RUN,
    )
    return comment_body(publication, None)


def styles(folder: Path) -> str:
    """Fetch GitHub's style sheet with npm."""
    subprocess.run(
        ["npm", "pack", "--silent", STYLES], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        file = archive.extractfile("package/github-markdown-light.css")
        assert file is not None
        return file.read().decode()


def drawn(page: str, folder: Path) -> Image.Image:
    """Return what Chromium shows, without the blank room below."""
    (folder / "comment.html").write_text(page, encoding="utf-8")
    shot = folder / "shot.png"
    size = f"--window-size={WIDTH},{TALLEST}"
    options = (f"--screenshot={shot}", size, f"--force-device-scale-factor={SCALE}")
    chromium.run(folder, *options, (folder / "comment.html").as_uri())
    picture = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
    blank = Image.new("RGB", picture.size, "white")
    box = ImageChops.difference(picture, blank).getbbox()
    assert box is not None
    return picture.crop((0, 0, picture.width, min(picture.height, box[3])))


def main() -> None:
    """Draw the picture."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = MarkdownIt("commonmark", {"html": True}).enable("table").render(comment())
        upper, _, rest = body.partition(ENDS)
        assert rest, f"the comment has no {ENDS}"
        picture = drawn(PAGE.format(styles=styles(folder), body=upper), folder)
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size} bytes, {picture.width} x {picture.height}")


if __name__ == "__main__":
    main()
