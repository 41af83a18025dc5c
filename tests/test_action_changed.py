"""Which adapters a run judges: no changed one is missed, and what was not seen never passes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safety_gate.action import git
from safety_gate.action.changed import MOST_ADAPTERS, Found, find_adapters, inside, is_hub
from safety_gate.action.event import (
    Event,
    Manual,
    MergeGroup,
    PullRequest,
    Push,
    WorkflowRun,
)
from safety_gate.action.repository import MOST_COMPARED, MOST_PULL_FILES, Repository, reading
from safety_gate.errors import GateError, SourceError
from safety_gate.publish.publisher import Address
from tests.loopback_github import Fault, LoopbackGitHub
from tests.loopback_github import Repository as Hosted
from tests.loopback_github.publications import BASE, HEAD, QUICK
from tests.loopback_github.runner import REPOSITORY, Workspace

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PULL = PullRequest(number=7, head=HEAD, base=BASE, from_fork=False)
AFTER_OTHER = WorkflowRun(
    head=HEAD,
    head_repository=REPOSITORY,
    head_branch="x",
    event="pull_request",
    conclusion="success",
    run_id=1,
    commit=BASE,
)


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def github(server: LoopbackGitHub) -> LoopbackGitHub:
    server.reset()
    return server


@pytest.fixture
def hosted(github: LoopbackGitHub) -> Hosted:
    return github.add_repository(REPOSITORY)


@pytest.fixture
def repository(github: LoopbackGitHub, hosted: Hosted) -> Iterator[Repository]:
    token = github.add_token(permissions={"contents": "read", "pull-requests": "read"})
    address = Address(repository=REPOSITORY, api_url=github.api_url, token=token)
    with reading(address, QUICK) as opened:
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three adapters, one of them at the top of a folder of another, and other files."""
    made = Workspace(tmp_path / "workspace")
    made.commit(
        {
            f"adapters/a/{CONFIG}": "{}",
            f"adapters/a/{WEIGHTS}": "1",
            f"adapters/a/inner/{CONFIG}": "{}",
            f"adapters/b/{CONFIG}": "{}",
            "src/code.py": "x",
            "README.md": "x",
        }
    )
    return made


def found(
    event: Event, workspace: Workspace, repository: Repository | None = None, *named: str
) -> Found:
    return find_adapters(named, event, workspace.path, repository)


def pull(hosted: Hosted, *files: Any) -> None:
    hosted.add_pull(7, head=HEAD, base=BASE, files=files)


@pytest.mark.parametrize(
    ("files", "adapters"),
    [
        (["README.md", "src/code.py"], ()),
        ([f"adapters/a/{WEIGHTS}"], ("adapters/a",)),
        (["adapters/a/tokenizer/vocab.json"], ("adapters/a",)),
        ([f"adapters/a/inner/{CONFIG}"], ("adapters/a", "adapters/a/inner")),
        ([f"adapters/b/{CONFIG}", f"adapters/a/{CONFIG}"], ("adapters/a", "adapters/b")),
        (["adapters/ab/x", "adapters/README.md"], ()),
    ],
)
def test_pull_request_judges_what_it_changes(
    hosted: Hosted,
    repository: Repository,
    workspace: Workspace,
    files: list[str],
    adapters: tuple[str, ...],
) -> None:
    pull(hosted, *files)
    result = found(PULL, workspace, repository)
    assert (result.adapters, result.seen) == (adapters, True)
    assert f"{len(files)} changed file" in result.how


def test_files_of_all_pages_count(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    pull(hosted, *[f"src/{n}.py" for n in range(250)], f"adapters/b/{CONFIG}")
    assert found(PULL, workspace, repository).adapters == ("adapters/b",)


def test_pull_request_beyond_githubs_list_judges_everything(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    pull(hosted, *[f"src/{n}.py" for n in range(MOST_PULL_FILES + 5)])
    result = found(PULL, workspace, repository)
    assert result.adapters == ("adapters/a", "adapters/a/inner", "adapters/b")
    assert "does not list all" in result.how


def test_unseen_changes_judge_everything(
    github: LoopbackGitHub, hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    pull(hosted, "README.md")
    github.add_fault(Fault("GET", "/pulls/7/files", status=502, times=99))
    everything = ("adapters/a", "adapters/a/inner", "adapters/b")
    assert found(PULL, workspace, repository).adapters == everything
    assert found(PULL, workspace, None).adapters == everything


def test_removed_adapter_is_not_there_to_be_judged(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    removed = [{"filename": f"adapters/old/{n}", "status": "removed"} for n in (CONFIG, WEIGHTS)]
    pull(hosted, *removed)
    result = found(PULL, workspace, repository)
    assert (result.adapters, result.seen) == ((), True)


def test_weights_without_their_config_are_an_adapter_still(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    (workspace.path / f"adapters/a/{CONFIG}").unlink()
    pull(hosted, {"filename": f"adapters/a/{CONFIG}", "status": "removed"})
    assert found(PULL, workspace, repository).adapters == ("adapters/a",)


def test_renamed_adapter_is_judged_at_its_new_place(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    renamed = {
        "filename": f"adapters/b/{CONFIG}",
        "previous_filename": f"adapters/old/{CONFIG}",
        "status": "renamed",
    }
    pull(hosted, renamed)
    result = found(PULL, workspace, repository)
    assert (result.adapters, result.seen) == (("adapters/b",), True)


def test_adapter_that_is_not_checked_out_was_not_seen(
    hosted: Hosted, repository: Repository, workspace: Workspace, tmp_path: Path
) -> None:
    """A sparse checkout, another ref, or none: the change is there, the adapter is not."""
    pull(hosted, f"adapters/new/{CONFIG}")
    assert not found(PULL, workspace, repository).seen
    (tmp_path / "empty").mkdir()
    empty = find_adapters((), PULL, tmp_path / "empty", repository)
    assert (empty.adapters, empty.seen) == ((), False)


def test_without_a_checkout_any_change_is_unseen(
    hosted: Hosted, repository: Repository, tmp_path: Path
) -> None:
    pull(hosted, "adapters/a/chat_template.jinja")
    assert not find_adapters((), PULL, tmp_path, repository).seen


def test_links_to_adapters_are_adapters(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    (workspace.path / "adapters/link").symlink_to("a")
    pull(hosted, "adapters/link")
    assert found(PULL, workspace, repository).adapters == ("adapters/link",)


def test_push_is_compared_in_the_local_history(workspace: Workspace) -> None:
    before = git.head(workspace.path)
    after = workspace.commit({f"adapters/b/{WEIGHTS}": "2", "README.md": "y"})
    result = found(Push(before=before, after=after), workspace)
    assert (result.adapters, result.seen) == (("adapters/b",), True)
    assert "2 changed files" in result.how


def test_names_that_are_no_text_are_not_missed(workspace: Workspace) -> None:
    before = git.head(workspace.path)
    odd = b"adapters/\xff\n::x"
    folder = Path(workspace.path / odd.decode("utf-8", "surrogateescape"))
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    after = workspace.commit({})
    result = found(Push(before=before, after=after), workspace)
    assert result.adapters == (odd.decode("utf-8", "surrogateescape"),)


def test_push_without_history_asks_github(
    hosted: Hosted, repository: Repository, workspace: Workspace
) -> None:
    hosted.add_comparison(BASE, HEAD, [f"adapters/b/{CONFIG}"])
    result = found(Push(before=BASE, after=HEAD), workspace, repository)
    assert result.adapters == ("adapters/b",)
    assert "from GitHub" in result.how


@pytest.mark.parametrize("story", ["forced", "too-many", "new-branch", "no-token"])
def test_push_that_cannot_be_compared_judges_everything(
    hosted: Hosted, repository: Repository, workspace: Workspace, story: str
) -> None:
    if story == "too-many":
        hosted.add_comparison(BASE, HEAD, [f"src/{n}" for n in range(MOST_COMPARED)])
    before = None if story == "new-branch" else BASE
    asked = None if story == "no-token" else repository
    result = found(Push(before=before, after=HEAD), workspace, asked)
    assert len(result.adapters) == 3


def test_deleted_branch_has_nothing_to_judge(workspace: Workspace) -> None:
    result = found(Push(before=BASE, after=None), workspace)
    assert (result.adapters, result.seen) == ((), True)


def test_merge_group_is_compared_with_its_base(workspace: Workspace) -> None:
    base = git.head(workspace.path)
    assert base is not None
    head = workspace.commit({f"adapters/a/inner/{WEIGHTS}": "2"})
    result = found(MergeGroup(head=head, base=base), workspace)
    assert result.adapters == ("adapters/a", "adapters/a/inner")


@pytest.mark.parametrize("event", [Manual(name="schedule", commit=HEAD), AFTER_OTHER])
def test_events_without_changes_judge_everything(event: Event, workspace: Workspace) -> None:
    assert len(found(event, workspace).adapters) == 3


def test_empty_workspace_is_not_the_same_as_nothing_changed(tmp_path: Path) -> None:
    result = find_adapters((), Manual(name="schedule", commit=HEAD), tmp_path, None)
    assert (result.adapters, result.seen) == ((), False)


@pytest.mark.parametrize(
    ("named", "adapters"),
    [
        (["adapters/b"], ("adapters/b",)),
        (["./adapters/b/"], ("adapters/b",)),
        (["adapters/*"], ("adapters/a", "adapters/b")),
        (["adapters/**"], ("adapters/a", "adapters/a/inner", "adapters/b")),
        (["**/inner"], ("adapters/a/inner",)),
        (["adapters/?"], ("adapters/a", "adapters/b")),
        (["adapters/b", "adapters/*"], ("adapters/b", "adapters/a")),
        (["org/name@main"], ("org/name@main",)),
        (["hf://org/name"], ("hf://org/name",)),
        (["adapters/missing"], ("adapters/missing",)),
    ],
)
def test_named_adapters(workspace: Workspace, named: list[str], adapters: tuple[str, ...]) -> None:
    result = found(PULL, workspace, None, *named)
    assert (result.adapters, result.seen) == (adapters, True)


def test_absolute_path_into_the_workspace_is_a_folder_of_it(workspace: Workspace) -> None:
    named = f"{workspace.path}/adapters/b"
    assert found(PULL, workspace, None, named).adapters == ("adapters/b",)


@pytest.mark.parametrize("named", ["../outside", "/etc", "adapters/../../x", "nothing/*"])
def test_named_adapters_that_cannot_be(workspace: Workspace, named: str) -> None:
    with pytest.raises(GateError):
        found(PULL, workspace, None, named)


def test_link_that_leads_outside_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (workspace.path / "adapters/out").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError, match="not in the workspace"):
        inside("adapters/out", workspace.path)


def test_deleted_folder_is_not_looked_up_on_the_hub() -> None:
    """Else a deleted adapters/support would be judged by a stranger's repository of that name."""
    assert not is_hub("adapters/support")
    assert is_hub("adapters/support@main")
    assert is_hub("hf://adapters/support")
    assert not is_hub("not a repo@x y")
    with pytest.raises(GateError):
        is_hub("hf://nonsense")


def test_too_many_adapters_are_refused_and_not_dropped(workspace: Workspace) -> None:
    workspace.commit({f"many/{n}/{CONFIG}": "{}" for n in range(MOST_ADAPTERS + 1)})
    with pytest.raises(SourceError, match="too many adapters"):
        found(Manual(name="schedule", commit=HEAD), workspace)


def test_too_large_a_workspace_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety_gate.action.changed.MOST_ENTRIES", 3)
    with pytest.raises(SourceError, match="too many files"):
        found(Manual(name="schedule", commit=HEAD), workspace)


def test_pull_request_of_a_commit(hosted: Hosted, repository: Repository) -> None:
    hosted.add_pull(7, head=HEAD, base=BASE)
    assert repository.pull_of(HEAD, owner="", branch="") == 7
    assert repository.pull_of(BASE, owner="", branch="") is None
    hosted.add_pull(8, head=HEAD, base=BASE)
    assert repository.pull_of(HEAD, owner="", branch="") is None  # which one?


def test_pull_request_of_a_fork_is_found_by_its_branch(
    hosted: Hosted, repository: Repository
) -> None:
    hosted.add_pull(9, head=HEAD, base=BASE, head_repository="stranger/adapters", head_ref="new")
    assert repository.pull_of(HEAD, owner="", branch="") is None
    assert repository.pull_of(HEAD, owner="stranger", branch="new") == 9
    hosted.pulls[9].head = BASE  # new commits since
    assert repository.pull_of(HEAD, owner="stranger", branch="new") is None


def test_git_never_sees_a_token_or_a_users_configuration(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A repository cannot start a program through git's configuration."""
    before = git.head(workspace.path)
    assert before is not None
    after = workspace.commit({"README.md": "changed"})
    canary = tmp_path / "canary"
    for key in ("core.fsmonitor", "diff.external", "core.pager", "diff.x.textconv"):
        workspace.git("config", key, f"touch {canary}")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert git.head(workspace.path) == after
    changes = git.changed_paths(workspace.path, before, after)
    assert changes is not None
    assert changes.there == ("README.md",)
    assert git.blob(workspace.path, after, "README.md", most=10) == b"changed"
    assert not canary.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_workspace_of_another_user_is_read(workspace: Workspace) -> None:
    """In the container we are root and the workspace is the runner's: git calls that dubious."""
    head = git.head(workspace.path)
    for path in (workspace.path, *workspace.path.rglob("*")):
        os.chown(path, 1001, 1001)
    with pytest.raises(subprocess.CalledProcessError):
        workspace.git("rev-parse", "HEAD")
    assert git.head(workspace.path) == head


def test_blob_is_a_regular_file_only(workspace: Workspace) -> None:
    (workspace.path / "link").symlink_to("README.md")
    commit = workspace.commit({})
    assert git.blob(workspace.path, commit, "README.md", most=10) == b"x"
    assert git.blob(workspace.path, commit, "link", most=100) is None
    assert git.blob(workspace.path, commit, "adapters", most=100) is None
    assert git.blob(workspace.path, commit, "README.md", most=0) is None
    assert git.blob(workspace.path, commit, "*.md", most=100) is None
    assert git.knows(workspace.path, commit)
    assert not git.knows(workspace.path, HEAD)
    assert git.head(Path("/nonexistent")) is None
