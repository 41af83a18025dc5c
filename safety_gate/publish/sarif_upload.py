"""SARIF for GitHub code scanning."""

import base64
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from github import Github

from safety_gate.publish import limits
from safety_gate.publish.github import NotPublished, Patience, create_once, translated
from safety_gate.publish.publication import COMMIT
from safety_gate.publish.told import Told

REF = re.compile(r"refs/(heads|tags|pull)/.+")
TOOL = "Safety Gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What code scanning hangs the results on."""

    commit: str  # 40 hex; on a pull request the merge commit, which is what was analysed
    ref: str  # refs/heads/..., refs/tags/... or refs/pull/N/merge


def publish_sarif(
    client: Github,
    repository: str,
    sarif: str,
    analysis: Analysis,
    *,
    patience: Patience | None = None,
) -> Told:
    """Upload a SARIF file.

    Raises:
        NotPublished: it cannot be sent, or GitHub did not take it.
    """
    packed = gzip.compress(sarif.encode("utf-8", "replace"), mtime=0)  # equal text, equal bytes
    _check(analysis, len(packed))
    body = {
        "commit_sha": analysis.commit,
        "ref": analysis.ref,
        "sarif": base64.b64encode(packed).decode("ascii"),
        "tool_name": TOOL,
    }
    # PyGithub has no method for this; its requester keeps authentication, patience and checks.
    repo = client.get_repo(repository)

    def create() -> Mapping[str, Any]:
        _, answer = repo.requester.requestJsonAndCheck(
            "POST", f"{repo.url}/code-scanning/sarifs", input=body
        )
        return answer if isinstance(answer, dict) else {}

    # A second upload of the same category replaces the first.
    with translated("code scanning"):
        create_once(create, lambda: None, patience=patience)
        return Told(channel="code scanning", state="created")


def _check(analysis: Analysis, packed: int) -> None:
    if not COMMIT.fullmatch(analysis.commit) or not REF.fullmatch(analysis.ref):
        raise NotPublished(
            "code scanning takes results for a branch, a tag or a pull request only",
            where="code scanning",
            got=analysis.ref,
            expected="refs/heads/, refs/tags/ or refs/pull/",
            hint="Run the gate on push or pull_request to see results in code scanning.",
        )
    if packed > limits.SARIF_GZIP:
        raise NotPublished(
            "the SARIF file is too large for GitHub",
            where="code scanning",
            got=f"{packed} bytes",
            expected=f"at most {limits.SARIF_GZIP}",
            hint="Read the findings in the JSON report.",
        )
