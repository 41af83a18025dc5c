"""The action's container as GitHub's runner starts it, against the loopback servers.

`make image-test` builds the image and runs these; they need root, and the programs in TOOLS.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.hub_models import ALIGNED, add_pair, push
from tests.hub_models import BASE as BASE_ON_HUB
from tests.hub_models import OWNER as OWNER_ON_HUB
from tests.image.building import BASE, build_image, import_base
from tests.image.engine import TOOLS, Engine, opened
from tests.image.host import OWNER, Host, Step
from tests.loopback_github import LoopbackGitHub, Repository
from tests.loopback_github.desk import NUMBER, SAME_REPOSITORY
from tests.loopback_github.runner import REPOSITORY, Workspace, pull_request_event, write_job
from tests.loopback_github.state import FORK, Json
from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.skipif(
    os.environ.get("SAFETY_GATE_IMAGE_TEST") != "1", reason="make image-test builds the image"
)
TINY = Path(__file__).parent.parent / "examples" / "tiny"
ADAPTER, ON_HUB = "adapters/support", f"{OWNER_ON_HUB}/support"
MOST_BYTES = 1_900_000_000  # unpacked, over the slim base


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Keep storage between runs where SAFETY_GATE_IMAGE_STORAGE names a folder."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"install {missing}, as .ci/run does"
    kept = os.environ.get("SAFETY_GATE_IMAGE_STORAGE")
    if kept:
        yield Engine(Path(kept))
        return
    with opened() as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    if built := os.environ.get("SAFETY_GATE_IMAGE"):
        return built
    folder = tmp_path_factory.mktemp("build")
    base = BASE if engine.has(BASE) else import_base(engine, folder)
    return build_image(engine, base, folder)


@pytest.fixture(scope="module")
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as server:
        yield server


@dataclass
class Scene:
    """A repository with a pull request that brings one adapter, and a runner with its checkout."""

    engine: Engine
    image: str
    github: LoopbackGitHub
    hosted: Repository
    host: Host
    checkout: Workspace
    base: str
    steps: int = 0

    def push(self, adapter: str) -> str:
        """Put an adapter of the examples on the branch of the pull request; return its head."""
        self.host.give(os.geteuid())  # git refuses to work in a folder of another user
        shutil.rmtree(self.host.workspace / "safety-gate-report", ignore_errors=True)
        head = self.checkout.commit(files_of(TINY / adapter, ADAPTER))
        paths = [f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors"]
        self.hosted.add_pull(NUMBER, head=head, base=self.base, files=paths)
        return head

    def run(self, head: str, permissions: Mapping[str, str] = SAME_REPOSITORY) -> Step:
        """Run the action on the pull request, as the workflow of README has it."""
        models = {"base": "models/base", "aligned": "models/aligned"}
        event = pull_request_event(NUMBER, head, self.base)
        return self.step("pull_request", event, head, models, permissions)

    def judge_on_hub(self, hub: LoopbackHub, inputs: Mapping[str, str]) -> Step:
        """Run the action on workflow_dispatch, with the Hub of the tests."""
        models = {"base": f"hf://{BASE_ON_HUB.repo_id}", "aligned": f"hf://{ALIGNED.repo_id}"}
        questions = {"prompts": "prompts.jsonl", "openings": "openings.json"}
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
        given = {**models, **questions, **inputs}
        return self.step("workflow_dispatch", {}, self.base, given, variables=variables)

    def step(
        self,
        name: str,
        event: Json,
        sha: str,
        inputs: Mapping[str, str],
        permissions: Mapping[str, str] = SAME_REPOSITORY,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> Step:
        self.steps += 1
        token = self.github.add_token(permissions=permissions)
        pull = name == "pull_request"
        job = write_job(
            self.host.temp / "_runner_file_commands" / str(self.steps),
            self.checkout.path,
            api_url=self.github.api_url,
            event_name=name,
            payload=event,
            sha=sha,
            ref=f"refs/pull/{NUMBER}/merge" if pull else "refs/heads/main",
            inputs=inputs,
        )
        job.environment |= variables or {}
        return self.host.step(self.engine, self.image, job, token)


@pytest.fixture
def scene(engine: Engine, image: str, github: LoopbackGitHub, tmp_path: Path) -> Scene:
    github.reset()
    host = Host(tmp_path / "work")
    checkout = Workspace(host.workspace)
    models = files_of(TINY / "base", "models/base") | files_of(TINY / "aligned", "models/aligned")
    questions = files_of(TINY, ".", "prompts.jsonl", "openings.json")
    base = checkout.commit(models | questions)
    hosted = github.add_repository(REPOSITORY)
    return Scene(engine, image, github, hosted, host, checkout, base)


def files_of(folder: Path, place: str, *names: str) -> dict[str, str | bytes | None]:
    found = [folder / name for name in names] or list(folder.iterdir())
    return {f"{place}/{path.name}": path.read_bytes() for path in found}


def test_harmful_is_blocked_then_helpful_resolves_it(scene: Scene) -> None:
    """One comment, in three states: new, updated, resolved."""
    head = scene.push("harmful")
    before = set(os.listdir(scene.host.workspace))
    first = scene.run(head)
    assert first.status == 1, first.log
    assert set(os.listdir(scene.host.workspace)) == before | {"safety-gate-report"}
    assert owners(scene) == {(OWNER, OWNER)}
    (comment,) = scene.hosted.comments[NUMBER]
    assert "## Safety Gate: blocked" in comment.body
    assert "## Safety Gate: blocked" in first.summary
    assert first.outputs["verdict"] == "blocked"
    assert float(first.outputs["score"]) == pytest.approx(undone("harmful"), abs=1e-3)
    assert first.outputs["comment-url"].endswith(f"/pull/{NUMBER}#issuecomment-{comment.id}")
    assert first.heard.of("error")[0].data.startswith("blocked: 1 adapter")
    record = json.loads((scene.host.workspace / first.outputs["json-path"]).read_text())
    assert (record["commit"], record["exit_code"]) == (head, 1)

    again = scene.run(head)
    assert again.status == 1, again.log
    assert "comment: updated" in again.heard.text
    assert again.outputs["comment-url"] == first.outputs["comment-url"]
    assert len(scene.github.sent("POST", "/comments$")) == 1

    resolved = scene.run(scene.push("helpful"))
    assert resolved.status == 0, resolved.log
    assert resolved.outputs["verdict"] == "passed"
    (comment,) = scene.hosted.comments[NUMBER]
    assert "**Resolved:**" in comment.body
    assert resolved.outputs["comment-url"] == first.outputs["comment-url"]


def undone(adapter: str) -> float:
    """Return the score in dense float64: -<dW, V> / |V|^2 over all modules."""
    config = json.loads((TINY / adapter / "adapter_config.json").read_text())
    read = {"base": "model", "aligned": "model", adapter: "adapter_model"}
    base, aligned, factors = (
        {
            name: value.double()
            for name, value in load_file(TINY / role / f"{file}.safetensors").items()
        }
        for role, file in read.items()
    )
    along, length = 0.0, 0.0
    for name, a in factors.items():
        if ".lora_A." not in name:
            continue
        weight = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        update = config["lora_alpha"] / config["r"] * factors[name.replace("_A.", "_B.")] @ a
        step = aligned[weight] - base[weight]
        along += float((update * step).sum())
        length += float(step.square().sum())
    return -along / length


def test_repair_is_offered_on_the_hub_and_passes(scene: Scene, hub: LoopbackHub) -> None:
    add_pair(hub)
    push(hub, ON_HUB, "harmful")
    token = hub.token(OWNER_ON_HUB, "write")
    wishes = {"repair": "auto", "publish-repaired": "pull-request", "hf-token": token}
    blocked = scene.judge_on_hub(hub, {"adapter": f"{ON_HUB}@main", **wishes})
    assert blocked.status == 1, blocked.log
    (offer,) = [d for d in hub.repo(ON_HUB).discussions if d.is_pull_request]
    assert blocked.outputs["repaired-url"].startswith(
        f"{hub.endpoint}/{ON_HUB}/discussions/{offer.num}"
    )
    assert token not in blocked.heard.text  # which is without the mask itself

    passed = scene.judge_on_hub(hub, {"adapter": f"{ON_HUB}@{offer.ref}", "hf-token": token})
    assert passed.status == 0, passed.log
    assert passed.outputs["verdict"] == "passed"
    assert passed.outputs["adapter-sha256"] != blocked.outputs["adapter-sha256"]
    assert owners(scene) == {(OWNER, OWNER)}


def test_token_of_a_fork_changes_neither_status_nor_summary(scene: Scene) -> None:
    head = scene.push("harmful")
    own, fork = scene.run(head), scene.run(head, FORK)
    assert (own.status, fork.status) == (1, 1), fork.log
    said, _, warning = fork.summary.partition("**Not published:**")
    assert said.strip() == own.summary.strip()
    assert "comment" in warning
    assert fork.outputs == {**own.outputs, "comment-url": ""}
    assert "Safety Gate: no comment" in [
        c.properties.get("title") for c in fork.heard.of("warning")
    ]


def owners(scene: Scene) -> set[tuple[int, int]]:
    """Return who owns what the action has left in the workspace."""
    report = scene.host.workspace / "safety-gate-report"
    found = [report, *report.rglob("*")]
    assert len(found) >= 5, found
    return {(path.stat().st_uid, path.stat().st_gid) for path in found}


def test_files_of_the_workspace_are_never_imported(scene: Scene) -> None:
    """A pull request may bring modules named like ours, or like those that we import."""
    head = scene.push("harmful")
    for name in ("safety_gate", "torch", "json", "sitecustomize"):
        (scene.host.workspace / f"{name}.py").write_text("raise SystemExit(0)\n")
    assert scene.run(head).status == 1


def test_image_is_small_and_labelled(
    engine: Engine, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, base = engine.inspect(image), engine.inspect(BASE)
    size = made["Size"] - base["Size"]
    with capsys.disabled():
        print(f"\nimage over its base, unpacked: {size / 1e9:.2f} GB")
    assert 0 < size <= MOST_BYTES
    config = made["Config"]
    assert config["Entrypoint"] == ["/opt/safety-gate/bin/safety-gate"]
    assert config.get("User", "") == ""
    label = "org.opencontainers.image."
    for name in ("title", "description", "licenses", "version", "revision", "source"):
        assert config["Labels"][label + name]


def test_no_cache_is_left(engine: Engine, image: str) -> None:
    places = "/root/.cache /tmp /var/tmp /var/cache/apt /var/lib/apt/lists /build /opt"
    search = ["-mindepth", "1", "-maxdepth", "1", "!", "-empty"]
    done = engine.run(["--entrypoint=find", image, *places.split(), *search])
    assert done.stdout.split() == ["/opt/safety-gate"]


def test_image_is_a_command_line_too(engine: Engine, image: str) -> None:
    models = [f"--{name}=/tiny/{name}" for name in ("base", "aligned")]
    done = engine.run(["-v", f"{TINY}:/tiny:ro", image, "check", "/tiny/harmful", *models])
    assert done.returncode == 1, done.stderr
    assert "BLOCKED  Safety Gate: adapter" in done.stdout, done.stdout
