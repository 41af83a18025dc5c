"""`safety-gate audit`: the whole command against a loopback Hub, and its table."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safety_gate.asking import Ask
from safety_gate.bot.audit import COLUMNS, FIGURES, Row, as_csv, gravest
from safety_gate.bot.audit_judge import AheadJudge
from safety_gate.bot.audit_targets import MOST_LINES, BadList, Target, by_pair, read_list
from safety_gate.bot.hub_judge import HubJudge, Standard
from safety_gate.cli_audit import audit
from safety_gate.jobs.facts import Page, Search
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.places import Where
from safety_gate.policy.file import PolicyText
from safety_gate.sources.hub_names import HubPlace
from safety_gate.worker.judging import Judged, Work
from tests.hub_models import ALIGNED, BASE, add_pair, push, use
from tests.loopback_hub import Fault, LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)

TEXT = PolicyText(
    data=(Path("safety_gate") / "policies" / "default.yml").read_bytes(), origin="preset default"
)
PAIR = ["--base", f"hf://{BASE}", "--aligned", f"hf://{ALIGNED}", "--ask", "none"]
Run = Callable[..., Result]


@pytest.fixture
def run(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    use(hub, monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    add_pair(hub)

    def run(*words: str) -> Result:
        database = ["--database", f"sqlite:///{tmp_path}/audit.db"]
        return CliRunner().invoke(audit, [*database, *words])

    return run


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_all_adapters_of_an_owner(hub: LoopbackHub, run: Run, tmp_path: Path) -> None:
    shas = {name: push(hub, f"acme/{name}", name) for name in ("helpful", "harmful", "safety")}
    hub.add_repo("acme/full-model", {"model.safetensors": "no adapter"})
    hub.add_repo("acme/hidden", {"adapter_config.json": "{}"}, private=True)
    push(hub, "umbrella/other", "harmful")
    result = run("--org", "acme", *PAIR, "--csv", str(tmp_path / "table.csv"))
    assert result.exit_code == 1, result.output
    rows = {row["repository"]: row for row in table(tmp_path / "table.csv")}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "acme/helpful": "passed",
        "acme/harmful": "blocked",
        "acme/safety": "passed",
    }
    for name, sha in shas.items():
        row = rows[f"acme/{name}"]
        assert (row["commit"], row["aligned"], row["base"]) == (sha, ALIGNED.repo_id, BASE.repo_id)
        assert all(float(row[figure]) == float(row[figure]) for figure in FIGURES)
    assert rows["acme/harmful"]["reason"]
    assert "2 passed, 1 blocked, 0 undecided" in " ".join(result.output.split())
    assert "3/3" in result.stderr


def test_the_same_command_goes_on_where_it_stopped(
    hub: LoopbackHub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("helpful", "harmful", "safety"):
        push(hub, f"acme/{name}", name)
    from safety_gate import gate

    judged: list[str] = []
    real = gate.judge_all
    monkeypatch.setattr("safety_gate.bot.audit_judge.AT_ONCE", 1)

    def judge_all(request: gate.Request, places: Sequence[Where]) -> object:
        judged.extend(map(str, places))
        if len(judged) == 2:
            raise KeyboardInterrupt
        return real(request, places)

    monkeypatch.setattr(gate, "judge_all", judge_all)
    stopped = run("--org", "acme", *PAIR)
    assert stopped.exit_code != 0
    assert "passed" not in stopped.stdout
    assert len(judged) == 2
    again = run("--org", "acme", *PAIR)
    assert again.exit_code == 1
    assert len(judged) == 4  # the first one is not judged again, the second one is
    assert len(set(judged)) == 3
    assert run("--org", "acme", *PAIR).exit_code == 1
    assert len(judged) == 4  # all is there


@pytest.mark.parametrize("at_once", [1, 8], ids=["by the cache", "in one pass"])
def test_the_bytes_of_a_pair_are_fetched_once(
    hub: LoopbackHub, run: Run, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("safety_gate.bot.audit_judge.AT_ONCE", at_once)
    digests = [
        hub.repo(place.repo_id).head.files["model.safetensors"].sha256 for place in (BASE, ALIGNED)
    ]

    def fetched() -> int:
        asked = hub.requests(side="cdn", method="GET")
        return sum(any(digest in one.path for digest in digests) for one in asked)

    push(hub, "one/helpful", "helpful")
    hub.requests.clear()
    assert run("--org", "one", *PAIR).exit_code == 0
    once = fetched()
    assert once > 0
    for name in ("helpful", "harmful", "safety"):
        push(hub, f"three/{name}", name)
    hub.requests.clear()
    run("--org", "three", *PAIR)
    assert fetched() == once


def test_judged_together_is_judged_alone(hub: LoopbackHub, run: Run) -> None:
    """Each report of one pass has the figures that the adapter has when it is judged by itself."""
    targets = [
        Target(repo=f"acme/{name}", ref="refs/heads/main", sha=push(hub, f"acme/{name}", name))
        for name in ("helpful", "harmful", "safety")
    ]
    standard = Standard(policy=TEXT, base=BASE, aligned=ALIGNED)
    together, alone = AheadJudge(standard, targets), HubJudge(standard)
    hub.requests.clear()
    for target in targets:
        work = Work(repo=target.repo, ref=target.ref, sha=target.sha)
        one, other = together.judge(work), alone.judge(work)
        assert isinstance(one, Judged)
        assert isinstance(other, Judged)
        assert one.report.adapter is not None
        assert (one.report.adapter.name, one.report.adapter.revision) == (target.repo, target.sha)
        assert one.report.verdict == other.report.verdict
        assert [f.rule for f in one.report.findings] == [f.rule for f in other.report.findings]
        assert len(one.report.modules) == len(other.report.modules) > 0
        for mine, theirs in zip(one.report.modules, other.report.modules, strict=True):
            assert mine.module == theirs.module
            assert mine.drift.values() == pytest.approx(theirs.drift.values(), rel=1e-4, abs=1e-6)


def test_a_verdict_of_another_standard_is_not_taken(tmp_path: Path) -> None:
    """Else one on another pair, or without asking the model, would stand for this audit's."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("one")
    first = Standard(policy=TEXT, base=BASE, aligned=ALIGNED, ask=Ask(prompts=prompts))
    key = AheadJudge(first, ()).policy
    assert AheadJudge(first, ()).policy == key
    others = [
        replace(first, aligned=BASE),
        replace(first, base=ALIGNED),
        replace(first, ask=replace(first.ask, mode="generate")),
        replace(first, ask=Ask()),
    ]
    assert key not in {AheadJudge(other, ()).policy for other in others}
    prompts.write_text("two")
    assert AheadJudge(first, ()).policy != key


def test_an_adapter_that_stops_the_gate_stops_no_other(hub: LoopbackHub, run: Run) -> None:
    hub.add_repo("acme/broken", {"adapter_config.json": "{"})
    shas = {"acme/broken": hub.repo("acme/broken").head.id}
    shas |= {f"acme/{name}": push(hub, f"acme/{name}", name) for name in ("harmful", "helpful")}
    targets = [Target(repo=repo, ref="refs/heads/main", sha=sha) for repo, sha in shas.items()]
    judge = AheadJudge(Standard(policy=TEXT, base=BASE, aligned=ALIGNED), targets)
    words = []
    for target in targets:
        found = judge.judge(Work(repo=target.repo, ref=target.ref, sha=target.sha))
        assert isinstance(found, Judged)
        words.append(found.report.verdict.word)
    assert words == ["undecided", "blocked", "passed"]


def test_a_list_names_commits_branches_and_pull_requests(
    hub: LoopbackHub, run: Run, tmp_path: Path
) -> None:
    old = push(hub, "acme/lora", "harmful")
    push(hub, "acme/lora", "helpful")
    lines = ["# ours", "acme/lora", f"hf://acme/lora@{old}  # the first", "acme/lora@main",
             "acme/none", "acme/lora@no-such-branch"]  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(lines))
    words = ["--list", str(tmp_path / "list.txt"), *PAIR, "--csv", str(tmp_path / "t.csv")]
    result = run(*words)
    assert result.exit_code == 1
    rows = table(tmp_path / "t.csv")
    found = [(row["repository"], row["ref"].partition("/")[0], row["verdict"]) for row in rows]
    assert sorted(found) == [
        ("acme/lora", "no-such-branch", "undecided"),
        ("acme/lora", "refs", "blocked"),
        ("acme/lora", "refs", "passed"),
        ("acme/none", "refs", "undecided"),
    ]
    assert [row["commit"] for row in rows if row["verdict"] == "blocked"] == [old]


def test_what_cannot_be_judged_is_not_passed(hub: LoopbackHub, run: Run, tmp_path: Path) -> None:
    push(hub, "acme/helpful", "helpful")
    hub.add_repo("acme/broken", {"adapter_config.json": "{"})
    assert run("--org", "acme", *PAIR).exit_code == 3
    assert run("--org", "nobody", *PAIR).exit_code == 3  # nothing was judged
    assert "no known pair" not in run("--org", "acme").output


def test_a_hub_that_fails_now_and_then_only_takes_longer(
    hub: LoopbackHub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(hub, "acme/helpful", "helpful")
    monkeypatch.setattr("safety_gate.cli_audit.BACKOFF_S", 0.0)
    hub.faults.add(Fault(route="refs", path="", status=503, times=2))
    assert run("--org", "acme", *PAIR).exit_code == 0


def test_an_audit_leaves_verdicts_for_the_page(hub: LoopbackHub, run: Run, tmp_path: Path) -> None:
    push(hub, "acme/helpful", "helpful")
    run("--org", "acme", *PAIR)
    store = open_sqlite(tmp_path / "audit.db")
    assert [one.repo for one in store.browse(Search(), Page())] == ["acme/helpful"]
    store.close_store()


def test_the_temporary_cache_is_told_and_goes_again(
    hub: LoopbackHub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "temporary folder" in run("--help").stdout
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    push(hub, "acme/helpful", "helpful")
    assert run("--org", "acme", *PAIR).exit_code == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["--org", "acme", "--list", __file__]])
def test_one_of_both(run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("acme/lora\nnot a name\n", 2),
        ("acme", 1),
        ("acme/lora@", 1),
        ("acme/lora@a..b", 1),
        ("/etc/passwd", 1),
    ],
)
def test_a_list_that_cannot_be_followed(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(BadList, match=f"line {line}") as refused:
        read_list(path)
    assert refused.value.exit_code == 2


def test_an_empty_list_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(BadList):
            read_list(tmp_path / name)
    (tmp_path / "long").write_text("acme/lora\n" * (MOST_LINES + 1))
    with pytest.raises(BadList, match="too long"):  # what is cut off would be called judged
        read_list(tmp_path / "long")
    (tmp_path / "twice").write_text("acme/lora\nhf://acme/lora\n")
    assert read_list(tmp_path / "twice") == [HubPlace(repo_id="acme/lora", revision=None)]


def test_adapters_of_one_pair_go_together(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(hub, monkeypatch)
    targets = []
    for number, claim in enumerate(["b/two", "a/one", "b/two", "", "a/one"]):
        config = f'{{"base_model_name_or_path": "{claim}"}}' if claim else "{"
        repo = hub.add_repo(f"acme/r{number}", {"adapter_config.json": config})
        targets.append(Target(repo=repo.repo_id, ref="refs/heads/main", sha=repo.head.id))
    assert [target.repo for target in by_pair(targets)] == [
        "acme/r1", "acme/r4", "acme/r0", "acme/r2", "acme/r3"
    ]  # fmt: skip


def row(word: str, **change: str) -> Row:
    target = Target(repo="acme/lora", ref=change.pop("ref", "refs/heads/main"), sha="1" * 40)
    return Row(target=target, sha="1" * 40, word=word, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["passed", "passed"], 0),
        (["passed", "undecided"], 3),
        (["undecided", "blocked", "passed"], 1),
        (["waiting", "passed"], 3),
        ([], 3),
    ],
)
def test_the_gravest_verdict_is_the_exit_status(words: list[str], status: int) -> None:
    assert gravest([row(word) for word in words]) == status


def test_no_cell_acts_in_a_spreadsheet() -> None:
    evil = row("passed", aligned='=cmd|"/c calc"!A1', base="@SUM(1)", ref="-2+3")
    text = as_csv([evil])
    (read,) = csv.DictReader(io.StringIO(text))
    assert list(read) == list(COLUMNS)
    assert [read["aligned"][0], read["base"][0], read["ref"][0]] == ["'", "'", "'"]
    figures = Row(target=evil.target, sha="", word="passed", figures=(-0.5, 1e-9, None, 1.0))
    (read,) = csv.DictReader(io.StringIO(as_csv([figures])))
    assert [read[name] for name in FIGURES] == ["-0.5", "1e-09", "", "1"]
