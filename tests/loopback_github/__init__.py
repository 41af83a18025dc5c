"""A GitHub of our own on 127.0.0.1, for real clients: PyGithub, and the action's container.

    with LoopbackGitHub() as github:
        repo = github.add_repository("octo/adapters")
        repo.add_pull(7, head=HEAD, base=BASE, files=["adapters/x/adapter_config.json"])
        token = github.add_token("github-actions[bot]", {"pull-requests": "write"})
        github.add_fault(Fault("POST", "/comments$", status=502, heard=True))
        ... GITHUB_API_URL=github.api_url GITHUB_TOKEN=token ...
        assert repo.comments[7][0].body
        assert github.sent("POST", "/comments$")

It keeps to GitHub's limits, permissions and words as facts/github_action.md has them.
"""

from tests.loopback_github.faults import Fault
from tests.loopback_github.server import LoopbackGitHub, Request
from tests.loopback_github.state import CheckRun, Comment, Pull, Repository, Status, Token

__all__ = [
    "CheckRun",
    "Comment",
    "Fault",
    "LoopbackGitHub",
    "Pull",
    "Repository",
    "Request",
    "Status",
    "Token",
]
