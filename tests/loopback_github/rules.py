"""What GitHub's API refuses, and in which words."""

import base64
import binascii
import gzip
import json
import re
from typing import Any

from tests.loopback_github.state import Json

CONCLUSIONS = {
    "action_required",
    "cancelled",
    "failure",
    "neutral",
    "success",
    "skipped",
    "stale",
    "timed_out",
}
CHECK_STATUSES = {"queued", "in_progress", "completed", "waiting", "requested", "pending"}
LEVELS = {"notice", "warning", "failure"}
STATES = {"error", "failure", "pending", "success"}
SHA = re.compile("[0-9a-f]{40}")


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.answer = {"message": message, "documentation_url": "https://docs.github.com/rest"}
        self.answer |= {"status": str(status), **more}


def check_comment(body: Json) -> str:
    """Return the text of a comment."""
    text = body.get("body")
    if not isinstance(text, str) or not text:
        raise Refused(422, "Validation Failed", errors=["body can't be blank"])
    if len(text) > 65_536:
        what = "Body is too long (maximum is 65536 characters)"
        raise Refused(422, "Validation Failed", errors=[{"message": what}])
    return text


def check_status(body: Json) -> None:
    """Refuse a commit status that GitHub would refuse."""
    if body.get("state") not in STATES:
        raise Refused(422, "Validation Failed", errors=["state is not included in the list"])
    if len(body.get("description") or "") > 140:
        what = "description is too long (maximum is 140 characters)"
        raise Refused(422, "Validation Failed", errors=[{"message": what}])
    url = body.get("target_url")
    if url and not re.match("https?://", url):
        raise Refused(422, "Validation Failed", errors=["target_url must use http(s) scheme"])


def check_check_run(body: Json, *, new: bool) -> list[Json]:
    """Return the annotations of a check run's request."""
    if new and not (body.get("name") and SHA.fullmatch(str(body.get("head_sha")))):
        raise Refused(422, "Invalid request.\n\nname and head_sha are needed.")
    if body.get("conclusion") not in CONCLUSIONS | {None}:
        raise Refused(422, "Invalid request.\n\nconclusion is not a member of the enum.")
    if body.get("status") not in CHECK_STATUSES | {None}:
        raise Refused(422, "Invalid request.\n\nstatus is not a member of the enum.")
    output = body.get("output") or {}
    if output:
        _check_output(output)
    annotations: list[Json] = output.get("annotations") or []
    if len(annotations) > 50:
        raise Refused(422, "Invalid request.\n\nNo more than 50 items are allowed; 51 given.")
    for annotation in annotations:
        _check_annotation(annotation)
    return annotations


def _check_output(output: Json) -> None:
    if not output.get("title") or not output.get("summary"):
        raise Refused(422, "Invalid request.\n\ntitle, summary weren't supplied.")
    if len(output["title"]) > 255:
        raise Refused(422, "Invalid request.\n\ntitle exceeds 255 characters.")
    for key in ("summary", "text"):
        if len(output.get(key) or "") > 65_535:
            raise Refused(422, f"Invalid request.\n\n{key} exceeds 65535 characters.")


def _check_annotation(annotation: Json) -> None:
    if annotation.get("annotation_level") not in LEVELS:
        raise Refused(422, "Invalid request.\n\nannotation_level is not a member of the enum.")
    needed = ("path", "start_line", "end_line", "message")
    if not all(annotation.get(key) for key in needed):
        raise Refused(422, "Invalid request.\n\nan annotation lacks a key.")
    if len(annotation["message"].encode()) > 65_536 or len(annotation.get("title", "")) > 255:
        raise Refused(422, "Invalid request.\n\nan annotation is too long.")


def check_sarif(body: Json) -> Json:
    """Return the SARIF file that was uploaded."""
    if not SHA.fullmatch(str(body.get("commit_sha"))):
        raise Refused(422, "Invalid request.\n\ncommit_sha does not match ^[0-9a-fA-F]+$ of 40.")
    if not re.fullmatch("refs/(heads|tags|pull)/.*", str(body.get("ref"))):
        raise Refused(422, "Invalid request.\n\nref does not match ^refs/(heads|tags|pull)/.*$.")
    try:
        packed = base64.b64decode(str(body.get("sarif")), validate=True)
        sarif: Json = json.loads(gzip.decompress(packed))
    except (binascii.Error, OSError, ValueError) as error:
        raise Refused(400, "The sarif is not valid gzip and base64 of JSON.") from error
    if len(packed) > 10_000_000:
        raise Refused(413, "The sarif is too large.")
    runs = sarif.get("runs", [])
    if sarif.get("version") != "2.1.0" or not 1 <= len(runs) <= 20:
        raise Refused(400, "The sarif is not of version 2.1.0 with 1 to 20 runs.")
    for run in runs:
        _check_run(run)
    return sarif


def _check_run(run: Json) -> None:
    rules = run["tool"]["driver"].get("rules", [])
    if len(run["results"]) > 25_000 or len(rules) > 25_000:
        raise Refused(400, "The sarif has too many results or rules.")
    for result in run["results"]:
        if not result["message"]["text"] or not result["locations"]:
            raise Refused(400, "A result has no message or no location.")
