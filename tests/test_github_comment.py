"""The sticky comment: one per gate, ours alone, up to date, whatever happens on the way."""

from collections.abc import Iterator
from functools import partial

import pytest

from safety_gate.publish.body import comment_body
from safety_gate.publish.comment import MODES, Mode, Thread, publish_comment
from safety_gate.publish.github import NotPublished, connect, own_login
from safety_gate.publish.marker import is_marked, marker, read_said, said
from safety_gate.publish.publication import Publication
from safety_gate.publish.told import Told
from tests.loopback_github import Comment, Fault, LoopbackGitHub, Repository
from tests.loopback_github.publications import BASE, HEAD, OTHER, QUICK, publication

BOT = "github-actions[bot]"
WRITE = {"pull-requests": "write"}
NUMBER = 7


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def github(server: LoopbackGitHub) -> LoopbackGitHub:
    server.reset()
    return server


@pytest.fixture
def repo(github: LoopbackGitHub) -> Repository:
    repo = github.add_repository("octo/adapters")
    repo.add_pull(NUMBER, head=HEAD, base=BASE)
    return repo


def tell(
    github: LoopbackGitHub,
    what: Publication,
    mode: Mode = "always",
    *,
    token: str | None = None,
) -> Told:
    client = connect(token or github.add_token(BOT, WRITE), api_url=github.api_url, patience=QUICK)
    try:
        thread = Thread.open(client, "octo/adapters", NUMBER, what.gate_id)
        render = partial(comment_body, what)
        return publish_comment(thread, what, mode=mode, render=render, patience=QUICK)
    finally:
        client.close()


def comments(repo: Repository) -> list[Comment]:
    return repo.comments[NUMBER]


def test_second_run_updates_the_first_comment(github: LoopbackGitHub, repo: Repository) -> None:
    first = tell(github, publication("blocked"))
    second = tell(github, publication("passed", commit=OTHER))
    (only,) = comments(repo)
    assert (first.state, second.state) == ("created", "updated")
    assert (
        first.url == second.url == "https://github.example/octo/adapters/pull/7#issuecomment-1000"
    )
    assert "## Safety Gate: passed" in only.body
    assert f"**Resolved:** commit `{HEAD[:12]}` was blocked." in only.body


def test_comment_is_found_behind_two_hundred_others(
    github: LoopbackGitHub, repo: Repository
) -> None:
    tell(github, publication("blocked"))
    ours = comments(repo).pop()
    for number in range(230):
        repo.add_comment(NUMBER, f"comment {number}", "alice")
    comments(repo).append(ours)
    assert tell(github, publication("passed")).state == "updated"
    assert len(comments(repo)) == 231
    assert len(github.sent("GET", "/issues/7/comments$")) >= 3


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        pytest.param("mallory", "User", id="a-person"),
        pytest.param("github-actions", "User", id="a-person-called-like-the-bot"),
        pytest.param("dependabot[bot]", "Bot", id="another-bot"),
    ],
)
def test_forged_marker_is_not_ours(
    github: LoopbackGitHub, repo: Repository, login: str, kind: str
) -> None:
    fake = publication("passed")
    forged = repo.add_comment(NUMBER, f"{comment_body(fake, None)}", login, kind)
    assert tell(github, publication("blocked")).state == "created"
    assert comments(repo)[0] is forged
    assert "passed" in forged.body
    assert "## Safety Gate: blocked" in comments(repo)[1].body


def test_quoted_marker_is_not_the_comment(github: LoopbackGitHub, repo: Repository) -> None:
    quoted = repo.add_comment(NUMBER, f"> {marker('safety-gate')}\n{marker('x')}", BOT, "Bot")
    assert tell(github, publication("blocked")).state == "created"
    assert quoted in comments(repo)


def test_gates_have_a_comment_each(github: LoopbackGitHub, repo: Repository) -> None:
    tell(github, publication("blocked", gate_id="safety-gate"))
    tell(github, publication("passed", gate_id="safety-gate-2"))
    tell(github, publication("passed", gate_id="safety-gate-2"))
    assert [is_marked(c.body, "safety-gate-2") for c in comments(repo)] == [False, True]


def test_younger_duplicates_are_deleted(github: LoopbackGitHub, repo: Repository) -> None:
    body = comment_body(publication("blocked"), None)
    other = repo.add_comment(NUMBER, "kept", "alice")
    oldest, *_ = [repo.add_comment(NUMBER, body, BOT, "Bot") for _ in range(3)]
    tell(github, publication("passed"))
    assert comments(repo) == [other, oldest]
    assert "## Safety Gate: passed" in oldest.body


def test_two_jobs_at_once_leave_one_comment(github: LoopbackGitHub, repo: Repository) -> None:
    """Another job creates its comment between our look and our own comment."""
    token = github.add_token(BOT, WRITE)
    client = connect(token, api_url=github.api_url, patience=QUICK)
    what = publication("blocked")
    thread = Thread.open(client, "octo/adapters", NUMBER, what.gate_id)

    def render(before: object) -> str:
        repo.add_comment(NUMBER, comment_body(publication("passed"), None), BOT, "Bot")
        return comment_body(what, None)

    told = publish_comment(thread, what, mode="always", render=render, patience=QUICK)
    client.close()
    (only,) = comments(repo)
    assert told.state == "updated"
    assert "## Safety Gate: blocked" in only.body


def test_comment_deleted_by_a_person_is_created_again(
    github: LoopbackGitHub, repo: Repository
) -> None:
    tell(github, publication("blocked"))
    github.add_fault(Fault("PATCH", "/issues/comments/", status=404, message="Not Found"))
    assert tell(github, publication("passed")).state in ("created", "updated")
    assert "## Safety Gate: passed" in comments(repo)[0].body


def test_edited_state_line_does_not_matter(github: LoopbackGitHub, repo: Repository) -> None:
    edited = f"{marker('safety-gate')}\r\n<!-- safety-gate:said v1 blocked x y -->\r\nhello"
    repo.add_comment(NUMBER, edited, BOT, "Bot")
    assert tell(github, publication("passed")).state == "updated"
    assert "Resolved" not in comments(repo)[0].body


# mode, verdicts run by run -> states and the number of comments at the end
STORIES = [
    ("always", ["passed", "blocked", "passed"], ["created", "updated", "updated"]),
    ("always", ["blocked", "blocked"], ["created", "updated"]),
    ("on-change", ["passed", "passed", "blocked"], ["created", "unchanged", "updated"]),
    ("on-change", ["blocked", "blocked", "passed"], ["created", "unchanged", "updated"]),
    ("on-failure", ["passed", "undecided", "passed"], ["skipped", "created", "updated"]),
    ("on-failure", ["passed", "passed"], ["skipped", "skipped"]),
    ("never", ["blocked", "blocked"], ["skipped", "skipped"]),
]


@pytest.mark.parametrize(("mode", "verdicts", "states"), STORIES)
def test_modes(
    github: LoopbackGitHub, repo: Repository, mode: Mode, verdicts: list[str], states: list[str]
) -> None:
    commits = [HEAD, OTHER, "e" * 40]
    told = [
        tell(github, publication(verdict, commit=commit), mode)
        for verdict, commit in zip(verdicts, commits, strict=False)
    ]
    assert [one.state for one in told] == states
    assert len(comments(repo)) == ("created" in states)
    if mode == "never":
        assert not github.sent("GET", "comments")


def test_every_mode_has_a_story() -> None:
    assert {mode for mode, _, _ in STORIES} == set(MODES)


def test_on_failure_goes_by_what_fails_the_job(github: LoopbackGitHub, repo: Repository) -> None:
    tolerated = publication("undecided", tolerated=("undecided",))
    assert tell(github, tolerated, "on-failure").state == "skipped"


def test_nothing_to_judge_begins_no_comment_but_resolves_one(
    github: LoopbackGitHub, repo: Repository
) -> None:
    nothing = publication(note="No adapter has changed.", commit=OTHER)
    assert tell(github, nothing).state == "skipped"
    tell(github, publication("blocked"))
    assert tell(github, nothing).state == "updated"
    assert "## Safety Gate: nothing to judge" in comments(repo)[0].body
    assert "**Resolved:**" in comments(repo)[0].body


HEARD_FAULTS = [
    pytest.param(Fault("POST", "/comments$", status=502, heard=True), id="502-after"),
    pytest.param(Fault("POST", "/comments$", cut="reset", heard=True), id="reset-after"),
    pytest.param(Fault("POST", "/comments$", cut="half", heard=True, status=201), id="half-answer"),
]
UNHEARD_FAULTS = [
    pytest.param(Fault("POST", "/comments$", status=502), id="502-before"),
    pytest.param(Fault("POST", "/comments$", cut="reset"), id="reset-before"),
    pytest.param(Fault("POST", "/comments$", status=500, times=2), id="500-twice"),
]


@pytest.mark.parametrize("fault", HEARD_FAULTS)
def test_lost_answer_never_doubles_a_comment(
    github: LoopbackGitHub, repo: Repository, fault: Fault
) -> None:
    github.add_fault(fault)
    tell(github, publication("blocked"))
    assert len(github.sent("POST", "/comments$")) == 1
    assert len(comments(repo)) == 1


@pytest.mark.parametrize("fault", UNHEARD_FAULTS)
def test_unheard_comment_is_said_again(
    github: LoopbackGitHub, repo: Repository, fault: Fault
) -> None:
    github.add_fault(fault)
    assert tell(github, publication("blocked")).state == "created"
    assert len(comments(repo)) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("PATCH", "/issues/comments/", status=502), id="502"),
        pytest.param(Fault("PATCH", "/issues/comments/", cut="reset", heard=True), id="reset"),
        pytest.param(
            Fault("PATCH", "/issues/comments/", status=429, headers={"Retry-After": "0"}), id="429"
        ),
    ],
)
def test_edit_is_retried(github: LoopbackGitHub, repo: Repository, fault: Fault) -> None:
    tell(github, publication("blocked"))
    github.add_fault(fault)
    assert tell(github, publication("passed")).state == "updated"
    assert "## Safety Gate: passed" in comments(repo)[0].body


def test_read_only_token_says_what_to_do(github: LoopbackGitHub, repo: Repository) -> None:
    fork = github.add_token(BOT, {"contents": "read", "pull-requests": "read"})
    with pytest.raises(NotPublished, match="may not do this") as refused:
        tell(github, publication("blocked"), token=fork)
    assert "workflow_run" in refused.value.hint
    assert len(github.sent("POST", "/comments$")) == 1  # a plain 403 is not tried again
    assert comments(repo) == []


def test_locked_conversation_is_refused_in_words(github: LoopbackGitHub, repo: Repository) -> None:
    repo.pulls[NUMBER].locked = True
    with pytest.raises(NotPublished) as refused:
        tell(github, publication("blocked"))
    assert "locked" in refused.value.hint


@pytest.mark.parametrize(
    ("login", "kind"), [(BOT, "Bot"), ("safety-gate-app[bot]", "Bot"), ("alice", "User")]
)
def test_own_login_for_every_kind_of_token(
    github: LoopbackGitHub, repo: Repository, login: str, kind: str
) -> None:
    token = github.add_token(login, WRITE, kind=kind)
    client = connect(token, api_url=github.api_url, patience=QUICK)
    assert own_login(client) == login
    client.close()
    tell(github, publication("blocked"), token=token)
    tell(github, publication("passed"), token=token)
    assert len(comments(repo)) == 1


def test_without_graphql_we_write_as_the_workflow(github: LoopbackGitHub, repo: Repository) -> None:
    github.add_fault(Fault("POST", "/graphql", status=404, times=9))
    tell(github, publication("blocked"))
    tell(github, publication("passed"))
    assert len(comments(repo)) == 1


@pytest.mark.parametrize("verdict", ["passed", "blocked", "undecided"])
def test_said_is_read_back(verdict: str) -> None:
    what = publication(verdict)
    found = read_said(f"{marker('safety-gate')}\n{said(what)}\nrest")
    assert found is not None
    assert (found.word, found.commit, found.digest) == (verdict, HEAD, what.digest)


@pytest.mark.parametrize(
    "line",
    [
        "<!-- safety-gate:said v1 blocked -->",
        f"<!-- safety-gate:said v1 passed {HEAD} {'0' * 64} --> and more",
        f"<!-- safety-gate:said v2 passed {HEAD} {'0' * 64} -->",
        f"<!-- safety-gate:said v1 perfect {HEAD} {'0' * 64} -->",
        "",
    ],
)
def test_odd_state_lines_say_nothing(line: str) -> None:
    assert read_said(f"{marker('safety-gate')}\n{line}") is None
    assert read_said(marker("safety-gate")) is None
    assert read_said("") is None


def test_digest_changes_with_findings_and_not_with_the_commit() -> None:
    same = publication("blocked", commit=OTHER)
    assert publication("blocked").digest == same.digest
    different = {publication(*v).digest for v in (["blocked"], ["passed"], ["blocked", "passed"])}
    assert len(different) == 3
