"""Answers of the page, with headers under which nothing that slipped through could act."""

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Response
from fastapi.responses import HTMLResponse

# One style sheet and one badge of our own; no script, no frame, no form that leads elsewhere.
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors {frames}"
)
FRAMES: Final = "'none'"
# A Space is shown inside a page of the Hub.
SPACE_FRAMES: Final = "https://huggingface.co"
SPACE: Final = "SPACE_ID"  # set in every Space


def headers(*, private: bool, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers of every answer.

    Args:
        private: a token opened the page, so no cache on the way may keep it.
        environ: of the process.
    """
    frames = SPACE_FRAMES if environ.get(SPACE) else FRAMES
    return {
        "Content-Security-Policy": POLICY.format(frames=frames),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "private, no-store" if private else "no-cache",
    }


def html(text: str, status: int = 200) -> Response:
    """Return a page."""
    return HTMLResponse(text, status)


def as_json(tree: Any, status: int = 200) -> Response:
    """Return a value as JSON: ASCII, so that no reader mistakes its encoding."""
    text = json.dumps(tree, ensure_ascii=True, indent=1) + "\n"
    return Response(text, status, media_type="application/json")
