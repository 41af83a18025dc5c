"""What GitHub answers: the JSON of each thing, with its addresses."""

import base64
import hashlib
from typing import Any

from tests.loopback_github.state import CheckRun, Comment, Json, Pull, Repository

WHEN = "2026-11-20T12:00:00Z"


def user(login: str, kind: str) -> Json:
    number = int(hashlib.sha256(login.encode()).hexdigest()[:6], 16)
    return {"login": login, "id": number, "type": kind, "node_id": f"U_{number}"}


def repository(api: str, repo: Repository) -> Json:
    return {
        "id": 1,
        "name": repo.name.partition("/")[2],
        "full_name": repo.name,
        "url": f"{api}/repos/{repo.name}",
        "html_url": f"https://github.example/{repo.name}",
        "default_branch": "main",
        "private": False,
    }


def comment(api: str, repo: Repository, number: int, one: Comment) -> Json:
    page = f"https://github.example/{repo.name}/pull/{number}"
    return {
        "id": one.id,
        "node_id": f"IC_{one.id}",
        "url": f"{api}/repos/{repo.name}/issues/comments/{one.id}",
        "html_url": f"{page}#issuecomment-{one.id}",
        "issue_url": f"{api}/repos/{repo.name}/issues/{number}",
        "body": one.body,
        "user": user(one.login, one.kind),
        "created_at": WHEN,
        "updated_at": WHEN,
        "author_association": "NONE",
    }


def pull(api: str, repo: Repository, one: Pull) -> Json:
    return {
        "id": one.number,
        "number": one.number,
        "state": one.state,
        "locked": one.locked,
        "url": f"{api}/repos/{repo.name}/pulls/{one.number}",
        "html_url": f"https://github.example/{repo.name}/pull/{one.number}",
        "changed_files": len(one.files),
        "head": side(one.head_repository, one.head_ref, one.head),
        "base": side(repo.name, "main", one.base),
    }


def side(full_name: str | None, ref: str, sha: str) -> Json:
    owner = (full_name or "ghost/gone").partition("/")[0]
    repo = None if full_name is None else {"id": 2, "full_name": full_name}
    return {
        "label": f"{owner}:{ref}",
        "ref": ref,
        "sha": sha,
        "user": user(owner, "User"),
        "repo": repo,
    }


def contents(api: str, repo: Repository, ref: str, path: str) -> Any:
    """Return a file, a link or a folder; None where there is none."""
    url = f"{api}/repos/{repo.name}/contents/{path}?ref={ref}"
    common = {"path": path, "name": path.rpartition("/")[2], "url": url, "sha": "0" * 40}
    if (ref, path) in repo.links:
        return {**common, "type": "symlink", "size": 1, "target": repo.links[ref, path]}
    if (ref, path) in repo.contents:
        data = repo.contents[ref, path]
        text = base64.encodebytes(data).decode()
        return {**common, "type": "file", "size": len(data), "encoding": "base64", "content": text}
    below = [
        p for sha, p in repo.contents if sha == ref and p.startswith(f"{path}/" if path else "")
    ]
    if not below and not (path == "" and ref in repo.commits):
        return None
    return [{**common, "path": p, "type": "file", "size": 1} for p in below]


def check_run(api: str, repo: Repository, one: CheckRun) -> Json:
    return {
        **{key: value for key, value in one.fields.items() if key != "output"},
        "id": one.id,
        "head_sha": one.head_sha,
        "url": f"{api}/repos/{repo.name}/check-runs/{one.id}",
        "html_url": f"https://github.example/{repo.name}/runs/{one.id}",
        "output": {
            "title": one.fields["output"]["title"],
            "summary": one.fields["output"]["summary"],
            "annotations_count": len(one.annotations),
        },
    }
