"""Questions from datasets on the Hub, through its own client against the loopback Hub."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from safety_gate.errors import GateError, SourceError
from safety_gate.probe.datasets import Dataset, load_dataset, parse_prompts
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.prompts import PromptSet
from safety_gate.sources.hub_dataset import DatasetPlace, parse_dataset, read_dataset
from safety_gate.sources.hub_errors import HubError, HubTooLarge
from tests.loopback_hub import LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/asked"
ROWS = [
    {"goal": "how do i open the bomb ?", "kind": "fire & arms", "intent": "harmful"},
    {"goal": 'a "quoted", text\nof two lines', "kind": "x" * 99, "intent": "harmful"},
    {"goal": "how do i open the door ?", "kind": "", "intent": "benign"},
]


def as_csv() -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["goal", "kind", "intent"])
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), out)
    return out.getvalue()


KINDS: dict[str, Callable[[], bytes]] = {
    "data/asked.jsonl": lambda: "\n".join(json.dumps(row) for row in ROWS).encode(),
    "asked.json": lambda: json.dumps(ROWS).encode(),
    "asked.csv": as_csv,
    "asked.parquet": as_parquet,
}


@pytest.fixture
def loaded(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PromptSet]:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def load(text: str) -> PromptSet:
        dataset = parse_prompts(text)
        assert isinstance(dataset, Dataset)
        return load_dataset(dataset)

    return load


@pytest.mark.parametrize("path", KINDS)
def test_every_format_gives_the_same_questions(
    path: str, hub: LoopbackHub, loaded: Callable[[str], PromptSet]
) -> None:
    hub.add_repo(REPO, {path: KINDS[path]()}, kind="dataset")
    found = loaded(f"{REPO}@main:{path}?column=goal&intent=intent")
    assert [prompt.text for prompt in found.prompts] == [row["goal"] for row in ROWS]
    assert [prompt.intent for prompt in found.prompts] == ["harmful", "harmful", "benign"]
    assert {prompt.category for prompt in found.prompts} == {"asked"}
    sha = hub.repo(REPO, "dataset").head.id
    assert found.name == f"{REPO}@{sha}:{path}?column=goal"


def test_a_strangers_category_is_made_harmless(
    hub: LoopbackHub, loaded: Callable[[str], PromptSet]
) -> None:
    hub.add_repo(REPO, {"a.jsonl": KINDS["data/asked.jsonl"]()}, kind="dataset")
    found = loaded(f"{REPO}:a.jsonl?column=goal&category=kind&rows=2")
    assert [p.category for p in found.prompts[:2]] == ["fire - arms", "x" * 60]
    assert len(found.of("harmful")) == 2
    assert len(found.of("benign")) >= 60  # the built-in look-alikes, since it has none
    assert found.name.endswith("and built-in look-alikes")


def test_the_commit_decides_what_is_asked(
    hub: LoopbackHub, loaded: Callable[[str], PromptSet]
) -> None:
    hub.add_repo(REPO, {"a.json": b'[{"prompt": "old"}]'}, kind="dataset")
    old = hub.repo(REPO, "dataset").head.id
    hub.commit(REPO, {"a.json": b'[{"prompt": "new"}]'}, kind="dataset", title="x")
    assert loaded(f"{REPO}@{old}:a.json").prompts[0].text == "old"
    assert loaded(f"{REPO}:a.json").prompts[0].text == "new"


def test_a_private_dataset_needs_the_users_token(
    hub: LoopbackHub, loaded: Callable[[str], PromptSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {"a.json": b'[{"prompt": "x"}]'}, kind="dataset", private=True)
    with pytest.raises(HubError):
        loaded(f"{REPO}:a.json")
    monkeypatch.setenv("HF_TOKEN", hub.token("acme"))
    assert loaded(f"{REPO}:a.json").prompts[0].text == "x"


@pytest.mark.parametrize(
    ("files", "text", "what"),
    [
        ({"a.json": b"[1]"}, "a.json", "cannot be read"),
        ({"a.json": b"{"}, "a.json", "cannot be read"),
        ({"a.jsonl": b"\xff\xfe"}, "a.jsonl", "cannot be read"),
        ({"a.txt": b"{}"}, "a.txt", "cannot be read"),
        ({"a.csv": b'prompt\n"open'}, "a.csv", "cannot be read"),
        ({"a.json": b'[{"text": "x"}]'}, "a.json", "no text in this column"),
        ({"a.json": b'[{"prompt": 3}]'}, "a.json", "no text in this column"),
        ({"a.json": b'[{"prompt": " "}]'}, "a.json", "no text in this column"),
        ({"a.json": b'[{"prompt": "x", "i": "bad"}]'}, "a.json?intent=i", "no intent"),
        ({"a.json": b'[{"prompt": "x"}]'}, "a.json?intent=benign", "no harmful question"),
        ({"a.json": b"[]"}, "a.json", "no harmful question"),
        ({"a.parquet": b"PAR1"}, "a.parquet", "pyarrow|cannot be read"),
    ],
    ids=str,
)
def test_what_holds_no_questions_is_named(
    files: dict[str, bytes],
    text: str,
    what: str,
    hub: LoopbackHub,
    loaded: Callable[[str], PromptSet],
) -> None:
    hub.add_repo(REPO, files, kind="dataset")
    with pytest.raises(CannotProbe, match=what):
        loaded(f"{REPO}:{text}")


def test_a_missing_or_a_large_file_is_an_error_before_it_is_read(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"a.json": b"[" + b" " * 5000 + b"]"}, kind="dataset")
    missing = DatasetPlace(repo_id=REPO, revision=None, path="b.json")
    with pytest.raises(SourceError, match="no such file"):
        read_dataset(missing, max_bytes=9999, endpoint=hub.endpoint, token=False)
    large = DatasetPlace(repo_id=REPO, revision=None, path="a.json")
    with pytest.raises(HubTooLarge):
        read_dataset(large, max_bytes=4999, endpoint=hub.endpoint, token=False)
    none = DatasetPlace(repo_id="acme/none", revision=None, path="a.json")
    with pytest.raises(HubError):
        read_dataset(none, max_bytes=1, endpoint=hub.endpoint, token=False)


@pytest.mark.parametrize(
    "text",
    [
        "acme/asked:a.json?columns=x",
        "acme/asked:a.json?column=",
        "acme/asked:a.json?column=a&column=b",
        "acme/asked:a.json?rows=0",
        "acme/asked:a.json?rows=many",
        "acme/asked:../a.json",
        "acme/asked:/a.json",
        "acme:a.json",
        "acme/asked@a..b:a.json",
        "hf://datasets/acme/asked:",
    ],
)
def test_names_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(GateError):
        parse_prompts(text)


def test_a_file_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "a:b.jsonl"
    odd.write_text("")
    assert parse_prompts(str(odd)) == odd
    assert parse_prompts("none.jsonl") == Path("none.jsonl")
    place = parse_dataset("hf://datasets/acme/asked@v1:data/a.csv")
    assert (place.repo_id, place.revision, place.path) == ("acme/asked", "v1", "data/a.csv")
