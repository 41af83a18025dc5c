"""What stands on the page: figures, links that stay, search, JSON, and no tag of a stranger."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from safety_gate.jobs.facts import Wanted
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.page.badge import FILLS, badge_svg
from safety_gate.page.links import Link
from tests.bot_door import POLICY, Door, sha
from tests.page_world import RULES, filled, judged, shown
from tests.sample_reports import blocked, passed
from tests.test_html_report import read

REPO = "/r/acme/support-lora"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    store = open_sqlite(tmp_path_factory.mktemp("page") / "jobs.db", RULES)
    filled(store)
    with shown(store) as door:
        yield door
    store.close_store()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "jobs.db", RULES)
    yield store
    store.close_store()


def page(door: Door, path: str) -> str:
    answer = door.ask("GET", path)
    assert answer.status == 200, (path, answer.text)
    return answer.text


def words(text: str) -> str:
    """Return the text that a reader sees, with single blanks."""
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def links(text: str) -> list[str]:
    return re.findall('(?:href|src)="([^"]*)"', text)


def crawled(door: Door) -> dict[str, str]:
    """Follow every link of ours from the first page; return what is there."""
    found: dict[str, str] = {}
    todo = ["/"]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = page(door, path)
        if "<html" in found[path]:
            ours = (link for link in links(found[path]) if link.startswith("/"))
            todo += [link.partition("#")[0] for link in ours]
    return found


def test_the_first_page_tells_queue_and_verdicts(door: Door) -> None:
    text = words(page(door, "/"))
    for part in ("Judging 1", "Waiting 2", "Passed 1", "Blocked 3", "Undecided 1"):
        assert part in text
    assert "zeta/new" in text
    assert "umbrella/roleplay" in text


def test_every_link_leads_somewhere_and_nothing_runs(door: Door) -> None:
    pages = crawled(door)
    assert len([path for path in pages if path.count("/") >= 4]) > 5
    for path, text in pages.items():
        if "<html" not in text:
            continue
        found = read(text)
        names = {element.tag for element in found.elements}
        assert not names & {"script", "iframe", "object", "embed", "base", "svg", "style"}, path
        assert not re.search(r'\son\w+\s*=\s*"', text), path
        outside = [link for link in links(text) if not link.startswith(("/", "#"))]
        assert all(link.startswith("https://huggingface.co/") for link in outside), path
        assert text.count("<h1>") == 1, path
        assert '<html lang="en">' in text


def test_json_stands_beside_every_page(door: Door) -> None:
    for path in ("/", "/queue", "/verdicts", "/o/acme", REPO, f"{REPO}/{sha(2)}"):
        text = page(door, path)
        (beside,) = re.findall('rel="alternate" type="application/json" href="([^"]*)"', text)
        answer = door.ask("GET", beside.replace("&amp;", "&"))
        assert answer.status == 200, beside
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json, dict)


def test_a_report_keeps_its_address(store: SqlStore) -> None:
    judged(store, "acme/lora", 1, blocked())
    with shown(store) as door:
        first = page(door, f"/r/acme/lora/{sha(1)}")
        assert "The adapter takes back" in words(first)
        report = door.ask("GET", f"/r/acme/lora/{sha(1)}/json").json
        assert (report["verdict"], report["adapter"]["revision"]) == ("blocked", sha(1))
        judged(store, "acme/lora", 2, passed())
        again = page(door, f"/r/acme/lora/{sha(1)}")
        assert "has its own verdict" in words(again)
        assert "its own verdict" not in words(page(door, f"/r/acme/lora/{sha(2)}"))
        assert door.ask("GET", f"/r/acme/lora/{sha(3)}").status == 404


def test_a_report_of_an_older_policy_stays(store: SqlStore) -> None:
    judged(store, "acme/lora", 1, passed())
    from safety_gate.page.access import Access
    from safety_gate.page.routes import add_page
    from tests.bot_door import opened

    with opened(store, page=lambda app: add_page(app, store, "b" * 64, Access(True))) as door:
        assert door.ask("GET", f"/r/acme/lora/{sha(1)}").status == 200
        badge = door.ask("GET", "/r/acme/lora/badge.svg").text
        assert "unknown" in badge  # by today's policy nobody has judged it


def test_before_and_after_of_a_repair(door: Door) -> None:
    text = page(door, f"{REPO}/{sha(2)}")
    seen = words(text)
    assert "A repaired copy was made, which is passed" in seen
    assert "Before and after the repair" in seen
    assert text.count('<div class="map">') == 2
    assert "The adapter takes back a significant share" in seen  # the reasons of the first
    repaired = door.ask("GET", f"{REPO}/{sha(2)}/repaired/json").json
    assert repaired["verdict"] == "passed"
    assert door.ask("GET", f"{REPO}/{sha(1)}/repaired/json").status == 404


def test_squares_of_the_heat_map_have_their_figures(door: Door) -> None:
    text = page(door, f"/r/umbrella/roleplay/{sha(5)}")
    squares = re.findall('<label class="square [^"]*">.*?</label>', text, re.DOTALL)
    assert all('class="tip"' in square for square in squares)
    figures = [square for square in squares if "undone" in square]
    assert len(figures) == len(blocked(6).modules) > 40
    assert len(squares) == len(figures) + 1  # one module could not be scored, and says so


@pytest.mark.parametrize(
    ("query", "repos"),
    [
        ("q=SUPPORT", ["acme/support-lora"] * 2),
        (f"q={sha(4)}", ["mallory/evil.lora"]),
        ("word=passed", ["acme/support-lora"]),
        ("q=umbrella&word=passed", []),
        ("q=%25", []),
        ("q=<script>alert(1)</script>", []),
    ],
)
def test_search(door: Door, query: str, repos: list[str]) -> None:
    found = door.ask("GET", f"/verdicts/json?{query}").json
    assert [one["repo"] for one in found["verdicts"]] == repos
    text = page(door, f"/verdicts?{query}")
    assert "<script" not in text


def test_what_was_typed_stays_in_its_attribute(door: Door) -> None:
    typed = "%22%3E%3Cimg+src%3Dx+onerror%3Dalert(1)%3E"
    text = page(door, f"/verdicts?q={typed}")
    assert 'value="&#34;&gt;&lt;img src=x onerror=alert(1)&gt;"' in text
    tags = [element.tag for element in read(text).elements]
    assert ("input" in tags, "img" in tags) == (True, False)


@pytest.mark.parametrize(
    "query", [f"q={'x' * 101}", "word=evil", "before=0", "before=x", "before=99999999999999999999"]
)
def test_what_cannot_be_asked_is_refused(door: Door, query: str) -> None:
    assert door.ask("GET", f"/verdicts?{query}").status == 422


@pytest.mark.parametrize(
    "path",
    [
        "/r/acme/none",
        "/r/acme/none/json",
        f"/r/acme/none/{sha(1)}",
        "/r/acme/a--b",
        "/r/acme/x.git/json",
        f"/r/acme/a..b/{sha(1)}/json",
    ],
)
def test_what_is_not_known_is_not_found(door: Door, path: str) -> None:
    assert door.ask("GET", path).status == 404


def test_pages_of_a_long_list(store: SqlStore) -> None:
    for number in range(1, 66):
        judged(store, f"acme/r{number}", number, passed())
    seen: list[str] = []
    with shown(store) as door:
        path: str | None = "/o/acme/json"
        while path:
            tree = door.ask("GET", path).json
            seen += [one["sha"] for one in tree["verdicts"]]
            path = tree["next"]
        assert seen == [sha(number) for number in range(65, 0, -1)]
        assert 'rel="next"' in page(door, "/verdicts")


def test_a_badge_tells_the_head_alone(store: SqlStore) -> None:
    def word(door: Door, repo: str = "acme/lora") -> str:
        answer = door.ask("GET", f"/r/{repo}/badge.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        root = ET.fromstring(answer.text)  # noqa: S314 - our own picture
        return root.attrib["aria-label"].removeprefix("safety gate: ")

    with shown(store) as door:
        assert word(door) == "unknown"
        assert word(door, "acme/a--b") == "unknown"
        judged(store, "acme/lora", 1, passed())
        assert word(door) == "passed"
        store.receive([Wanted(repo="acme/lora", ref="refs/heads/main", sha=sha(2), policy=POLICY)])
        assert word(door) == "judging"  # the old verdict does not cover the new head
        lease = store.claim("w")
        assert lease is not None
        store.close(lease, "ignored", "own-commit")  # the echo of our own commit
        assert word(door) == "passed"
        judged(store, "acme/lora", 3, blocked())
        assert word(door) == "blocked"
        judged(store, "acme/lora", 4, passed(), ref="refs/pr/1")
        assert word(door) == "blocked"


@pytest.mark.parametrize("word", FILLS)
def test_a_badge_is_a_picture_that_can_be_read(word: str) -> None:
    picture = ET.fromstring(badge_svg(word))  # type: ignore[arg-type]  # noqa: S314
    assert word in "".join(picture.itertext())
    red, green, blue = (int(FILLS[word][at : at + 2], 16) / 255 for at in (1, 3, 5))  # type: ignore[index]
    parts = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    light = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    assert 1.05 / (light + 0.05) >= 4.5


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "//evil.example", 'x" onclick="', "/r/a b", "http:/x", ""]
)
def test_a_link_is_one_of_ours(text: str) -> None:
    with pytest.raises(AssertionError):
        Link(text)


def test_a_branch_with_a_strange_name_is_text(store: SqlStore) -> None:
    ref = "refs/heads/a+b/-c.html"
    judged(store, "acme/lora", 1, passed(), ref=ref)
    with shown(store) as door:
        assert "a+b/-c.html" in page(door, "/r/acme/lora")
        tree = json.loads(page(door, "/r/acme/lora/json"))
        assert tree["verdicts"][0]["ref"] == ref


def test_a_report_of_another_version_is_still_there_as_json(store: SqlStore) -> None:
    store.receive([Wanted(repo="acme/lora", ref="refs/heads/main", sha=sha(1), policy=POLICY)])
    lease = store.claim("w")
    assert lease is not None
    store.decide(lease, "passed", '{"schema": "safety-gate/report/v0"}')
    store.close(lease, "done")
    with shown(store) as door:
        assert "there as JSON" in words(page(door, f"/r/acme/lora/{sha(1)}"))
        tree = door.ask("GET", f"/r/acme/lora/{sha(1)}/json").json
        assert tree == {"schema": "safety-gate/report/v0"}
