"""The workspace's git repository, asked with plumbing commands only."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from safety_gate.action.changes import Changes

TIMEOUT = 120  # seconds; a tree of 100,000 files is compared in a few
MOST_OUTPUT = 64 * 1024 * 1024  # bytes

LEADS_AWAY = ("120000", "160000")  # the modes of a link and of a submodule

# The container is root and the workspace belongs to the runner's user, which git takes for an
# attack ("dubious ownership") unless told otherwise; -c counts as "told" for this one command. The
# others keep a repository's own configuration from starting programs.
_GIT = (
    "git",
    "-c",
    "safe.directory=*",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "--no-optional-locks",
    "--literal-pathspecs",
)
# No token of ours, and no configuration of a user.
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
}


def head(workspace: Path) -> str | None:
    """Return the commit that is checked out; None where there is no repository."""
    output = _ask(workspace, ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
    return None if output is None else output.decode("ascii", "replace").strip()


def knows(workspace: Path, commit: str) -> bool:
    """Tell whether a commit is in the local history."""
    return _ask(workspace, ["cat-file", "-e", f"{commit}^{{commit}}"]) is not None


def changed_paths(workspace: Path, before: str, after: str) -> Changes | None:
    """Return what differs between two commits; None where git cannot tell.

    A rename is a path that is gone and one that is there. Paths that are not UTF-8 come with
    their bytes escaped, as Python gives them for files, so that none is lost.
    """
    options = ["-r", "-z", "--name-status", "--no-renames", "--no-ext-diff", "--no-textconv"]
    output = _ask(workspace, ["diff-tree", *options, before, after, "--"])
    if output is None:
        return None
    parts = [part.decode("utf-8", "surrogateescape") for part in output.split(b"\0")]
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    return Changes(
        there=tuple(path for status, path in pairs if status != "D"),
        gone=tuple(path for status, path in pairs if status == "D"),
    )


def mode(workspace: Path, commit: str, path: str) -> str | None:
    """Return the mode of a path in a commit; "" where it is not there, None where git fails."""
    listing = _ask(workspace, ["ls-tree", "-z", "--full-tree", commit, "--", path])
    return None if listing is None else listing.partition(b" ")[0].decode("ascii", "replace")


def blob(workspace: Path, commit: str, path: str, *, most: int) -> bytes | None:
    """Return a regular file as it is in a commit; None where it is not there, or too large."""
    listing = _ask(workspace, ["ls-tree", "-z", "--full-tree", commit, "--", path])
    if not listing or not listing.startswith((b"100644 blob ", b"100755 blob ")):
        return None
    name = listing.split()[2].decode("ascii", "replace")
    size = _ask(workspace, ["cat-file", "-s", name])
    if size is None or int(size) > most:
        return None
    return _ask(workspace, ["cat-file", "blob", name])


def _ask(workspace: Path, arguments: Sequence[str]) -> bytes | None:
    """Return what git prints; None where it fails, is not installed, or takes too long."""
    command = [*_GIT, "-C", str(workspace), *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            check=False,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    if done.returncode != 0 or len(done.stdout) > MOST_OUTPUT:
        return None
    return done.stdout
