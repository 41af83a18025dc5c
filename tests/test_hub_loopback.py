"""The loopback Hub answers the real client as the Hub does: the test double is tested itself."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DiscussionComment,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from tests.loopback_hub import Fault, LoopbackHub, rate_limited
from tests.loopback_hub.xet import files_of_shard

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/lora"
SECRET = "webhook-secret"  # noqa: S105


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    disable_progress_bars()
    return HfApi(endpoint=hub.endpoint, token=hub.token("acme", "write"))


def api_of(hub: LoopbackHub, user: str, role: Any = "read") -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token(user, role))


# The client 2.4.0 uploads over LFS with a keyword that httpx2 has deprecated.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("xet", [True, False])
def test_a_commit_from_empty_to_read_back(
    hub: LoopbackHub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    assert api.create_repo(REPO).repo_id == REPO
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    weights = os.urandom(200_000)
    info = api.create_commit(
        REPO,
        [
            CommitOperationAdd("adapter_model.safetensors", weights),
            CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n# Card\n"),
        ],
        commit_message="Upload",
        commit_description="More words",
    )
    head = hub.repo(REPO).head
    assert info.oid == head.id
    assert (head.title, head.message, head.author) == ("Upload", "More words", "acme")
    content = head.files["adapter_model.safetensors"]
    assert content.data == weights
    assert (content.xet_hash is not None) == xet
    path = hf_hub_download(
        REPO,
        "adapter_model.safetensors",
        endpoint=hub.endpoint,
        token=hub.token("acme"),
        cache_dir=tmp_path,
    )
    assert Path(path).read_bytes() == weights
    assert bool(hub.requests("lfs-put")) != xet
    assert bool(hub.requests("xet-token")) == xet


def test_a_whole_snapshot(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add_repo(REPO, {"a.json": "{}", "sub/b.safetensors": b"weights"}, storage="xet")
    folder = Path(snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=tmp_path, token=False))
    assert (folder / "sub" / "b.safetensors").read_bytes() == b"weights"


def test_trees_refs_history_and_paths(hub: LoopbackHub, api: HfApi) -> None:
    hub.add_repo(REPO, {"a.json": "{}", "sub/b.txt": "x", "sub/deep/c.bin": b"y"})
    hub.set_page_size(2)
    every = [entry.path for entry in api.list_repo_tree(REPO, recursive=True)]
    assert every == [".gitattributes", "a.json", "sub", "sub/b.txt", "sub/deep", "sub/deep/c.bin"]
    assert [e.path for e in api.list_repo_tree(REPO, "sub")] == ["sub/b.txt", "sub/deep"]
    assert [i.path for i in api.get_paths_info(REPO, ["a.json", "gone"])] == ["a.json"]
    api.create_branch(REPO, branch="dev/one")
    api.create_tag(REPO, tag="v1")
    with pytest.raises(HfHubHTTPError):
        api.create_tag(REPO, tag="v1")
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert [branch.name for branch in refs.branches] == ["main", "dev/one"]
    assert [tag.name for tag in refs.tags] == ["v1"]
    assert [c.title for c in api.list_repo_commits(REPO)] == ["Upload", "initial commit"]
    api.delete_branch(REPO, branch="dev/one")
    api.super_squash_history(REPO)
    assert len(api.list_repo_commits(REPO)) == 1
    assert api.model_info(REPO, files_metadata=True).siblings is not None


def test_what_is_missing_says_so(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.add_repo(REPO, {"a.json": "{}"}, gated="manual")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/other")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="nothing")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(
            REPO, "b", endpoint=hub.endpoint, token=hub.token("acme"), cache_dir=tmp_path
        )
    with pytest.raises(GatedRepoError):
        api_of(hub, "stranger").auth_check(REPO)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").whoami()  # noqa: S106
    assert api.whoami()["name"] == "acme"


def test_only_those_who_may_write_can_push(hub: LoopbackHub) -> None:
    hub.add_repo(REPO)
    add = [CommitOperationAdd("a.txt", b"x")]
    for user, role in (("acme", "read"), ("stranger", "write")):
        with pytest.raises(HfHubHTTPError) as caught:
            api_of(hub, user, role).create_commit(REPO, add, commit_message="m")
        assert caught.value.response.status_code == 403
    member = HfApi(endpoint=hub.endpoint, token=hub.token("friend", "write", orgs=("acme",)))
    member.create_commit(REPO, add, commit_message="m")
    assert hub.repo(REPO).head.author == "friend"


def test_a_stale_parent_is_refused(hub: LoopbackHub, api: HfApi) -> None:
    repo = hub.add_repo(REPO)
    stale = repo.head.id
    hub.commit(REPO, {"a.txt": "someone was quicker"})

    def push(parent: str, *, create_pr: bool = False) -> CommitInfo:
        add = [CommitOperationAdd("b.txt", os.urandom(9))]  # one object serves one commit only
        return api.create_commit(
            REPO, add, commit_message="m", parent_commit=parent, create_pr=create_pr
        )

    with pytest.raises(HfHubHTTPError) as caught:
        push(stale)
    assert caught.value.response.status_code == 412
    assert "The branch was updated" in str(caught.value)
    assert push(repo.head.id).oid == repo.head.id
    info = push(stale, create_pr=True)
    assert repo.at(info.pr_revision or "").parent == stale


def test_operations_of_a_commit(hub: LoopbackHub, api: HfApi) -> None:
    repo = hub.add_repo(REPO, {"a.txt": "a", "sub/b.txt": "b", "sub/c.txt": "c", "d.txt": "d"})
    head = repo.head.id
    same = [CommitOperationAdd("a.txt", b"a")]
    assert api.create_commit(REPO, same, commit_message="m").oid == head
    api.create_commit(
        REPO,
        [CommitOperationDelete("sub/", is_folder=True), CommitOperationDelete("d.txt")],
        commit_message="m",
    )
    assert sorted(repo.head.files) == [".gitattributes", "a.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit(REPO, [CommitOperationDelete("gone.txt")], commit_message="m")
    card = CommitOperationAdd("README.md", b"---\na: [\n---\n")
    with pytest.raises((BadRequestError, ValueError)):
        api.create_commit(REPO, [card], commit_message="m")


def test_a_pull_request_from_open_to_merged(hub: LoopbackHub, api: HfApi) -> None:
    repo = hub.add_repo(REPO, {"a.txt": "a"})
    stranger = api_of(hub, "stranger")
    add = [CommitOperationAdd("b.txt", b"b")]
    info = stranger.create_commit(
        REPO, add, commit_message="Fix", commit_description="Why", create_pr=True
    )
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    details = api.get_discussion_details(REPO, 1)
    assert (details.status, details.is_pull_request, details.author) == ("open", True, "stranger")
    assert details.conflicting_files == []
    api.create_commit(
        REPO, [CommitOperationAdd("c.txt", b"c")], commit_message="More", revision="refs/pr/1"
    )
    api.merge_pull_request(REPO, 1)
    assert sorted(repo.head.files) == [".gitattributes", "a.txt", "b.txt", "c.txt"]
    assert api.get_discussion_details(REPO, 1).status == "merged"
    with pytest.raises(HfHubHTTPError):
        api.merge_pull_request(REPO, 1)


def test_a_draft_and_a_conflict(hub: LoopbackHub, api: HfApi) -> None:
    hub.add_repo(REPO, {"a.txt": "a"})
    draft = api.create_pull_request(REPO, title="Draft")
    assert draft.status == "draft"
    api.create_commit(
        REPO,
        [CommitOperationAdd("a.txt", b"mine")],
        commit_message="m",
        revision=f"refs/pr/{draft.num}",
    )
    with pytest.raises(HfHubHTTPError):
        api.merge_pull_request(REPO, draft.num)
    api.change_discussion_status(REPO, draft.num, "open")
    hub.commit(REPO, {"a.txt": "theirs"})
    assert api.get_discussion_details(REPO, draft.num).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError) as caught:
        api.merge_pull_request(REPO, draft.num)
    assert caught.value.response.status_code == 409


@pytest.mark.filterwarnings("ignore:Hidden comments")
def test_a_discussion_and_its_comments(hub: LoopbackHub, api: HfApi) -> None:
    repo = hub.add_repo(REPO)
    talk = api_of(hub, "bot").create_discussion(REPO, title="Report", description="first")
    comment = api_of(hub, "bot").comment_discussion(REPO, talk.num, "second")
    edited = api_of(hub, "bot").edit_discussion_comment(REPO, talk.num, comment.id, "third")
    assert edited.content == "third"
    with pytest.raises(HfHubHTTPError):
        api_of(hub, "stranger").edit_discussion_comment(REPO, talk.num, comment.id, "x")
    api.rename_discussion(REPO, talk.num, new_title="A better title")
    api.change_discussion_status(REPO, talk.num, "closed", comment="done")
    api.hide_discussion_comment(REPO, talk.num, comment.id)
    details = api.get_discussion_details(REPO, talk.num)
    assert (details.title, details.status) == ("A better title", "closed")
    comments = [event for event in details.events if isinstance(event, DiscussionComment)]
    assert [comment.content for comment in comments] == ["first", "third", "done"]
    for i in range(12):
        api.create_discussion(REPO, title=f"More {i}", description="x")
    assert len(list(api.get_repo_discussions(REPO))) == 13
    by_bot = api.get_repo_discussions(REPO, author="bot", discussion_status="closed")
    assert [found.num for found in by_bot] == [1]
    repo.discussions_disabled = True
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_discussion(REPO, title="No", description="x")
    assert caught.value.response.status_code == 403


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, Any], str]]]]:
    """Listen for webhooks."""
    heard: list[tuple[dict[str, Any], str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((json.loads(body), self.headers.get("X-Webhook-Secret", "")))
            self.send_response(202)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", heard
        finally:
            server.shutdown()
            thread.join()


def test_webhooks_are_managed_and_delivered(hub: LoopbackHub, api: HfApi) -> None:
    repo = hub.add_repo(REPO)
    with receiver() as (url, heard):
        hook = api.create_webhook(
            url=url, watched=[{"type": "model", "name": REPO}], domains=["repo"], secret=SECRET
        )
        assert [each.id for each in api.list_webhooks()] == [hook.id]
        old = repo.head.id
        new = hub.commit(REPO, {"adapter_config.json": "{}"}).id
        api.create_discussion(REPO, title="Not in the domain", description="x")
        hub.world.hooks.flush()
        payload, secret = heard[0]
        assert len(heard) == 1
        assert secret == SECRET
        assert payload["event"] == {"action": "update", "scope": "repo.content"}
        assert payload["updatedRefs"] == [{"ref": "refs/heads/main", "oldSha": old, "newSha": new}]
        assert payload["repo"]["headSha"] == new
        assert payload["webhook"] == {"id": hook.id, "version": 3}
        assert hub.world.hooks.deliveries[0].status == 202
        api.disable_webhook(hook.id)
        hub.commit(REPO, {"a": "b"})
        api.enable_webhook(hook.id)
        api.delete_webhook(hook.id)
        hub.world.hooks.flush()
        assert len(heard) == 1
    assert [e["event"]["scope"] for e in hub.world.hooks.events].count("repo.content") == 2


def test_a_pull_request_tells_of_its_ref_and_its_discussion(hub: LoopbackHub, api: HfApi) -> None:
    hub.add_repo(REPO)
    hub.world.hooks.events.clear()
    add = [CommitOperationAdd("a.txt", b"a")]
    info = api.create_commit(REPO, add, commit_message="m", create_pr=True)
    content, discussion = hub.world.hooks.events
    moved = {"ref": "refs/pr/1", "oldSha": None, "newSha": info.oid}
    assert content["updatedRefs"] == [moved]
    assert content["repo"]["headSha"] == hub.repo(REPO).head.id
    assert discussion["event"] == {"action": "create", "scope": "discussion"}
    assert discussion["discussion"]["isPullRequest"]
    assert discussion["comment"]["content"] == ""


def test_faults_hit_the_nth_request(hub: LoopbackHub, api: HfApi) -> None:
    hub.add_repo(REPO)
    hub.faults.add(Fault(route="info", nth=2, times=2, status=503))
    statuses = []
    for _ in range(4):
        try:
            api.model_info(REPO)
            statuses.append(200)
        except HfHubHTTPError as error:
            statuses.append(error.response.status_code)
    assert statuses == [200, 503, 503, 200]
    hub.faults.add(rate_limited("info", seconds=55))
    with pytest.raises(HfHubHTTPError, match="55 seconds"):
        api.model_info(REPO)


def test_the_cdn_refuses_tokens_and_old_addresses(hub: LoopbackHub, tmp_path: Path) -> None:
    repo = hub.add_repo(REPO, {"a.safetensors": b"weights"})
    url = hub.world.sign(repo, repo.head.files["a.safetensors"])
    from huggingface_hub import get_session

    session = get_session()
    assert session.get(url).content == b"weights"
    assert session.get(url, headers={"Range": "bytes=2-4"}).content == b"igh"
    assert session.get(url, headers={"Range": "bytes=9-"}).status_code == 416
    assert session.get(url, headers={"Authorization": "Bearer x"}).status_code == 400
    hub.world.expire_urls()
    assert session.get(url).status_code == 403


def test_the_client_reads_a_tensor_header(hub: LoopbackHub, api: HfApi) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0" * 4
    hub.add_repo(REPO, {"adapter_model.safetensors": data})
    found = api.parse_safetensors_file_metadata(REPO, "adapter_model.safetensors")
    assert list(found.tensors) == ["w"]


def test_a_shard_without_files_is_read() -> None:
    assert files_of_shard(b"\0" * 48 + b"\xff" * 48) == {}


def test_a_reset_hub_is_empty(hub: LoopbackHub, api: HfApi) -> None:
    hub.add_repo(REPO)
    hub.reset()
    assert hub.requests() == []
    with pytest.raises(HfHubHTTPError):
        api.model_info(REPO)
