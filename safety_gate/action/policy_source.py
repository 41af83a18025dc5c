"""Where the policy comes from: a trusted file of the repository, or a preset."""

from dataclasses import dataclass
from importlib import resources

from safety_gate.action.event import Event
from safety_gate.action.repository import Repository
from safety_gate.action.runner import Runner
from safety_gate.action.trusted import trusted_file
from safety_gate.errors import BadPolicy
from safety_gate.policy.presets import load_preset
from safety_gate.policy.yaml_text import MAX_BYTES
from safety_gate.report.location import address_of

USUAL = "safety-gate.yml"  # at the top of the repository, where nothing else is said
DEFAULT_PRESET = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """A policy file's bytes, and what they are called."""

    data: bytes
    origin: str  # for the report: "preset default", or path and commit
    uri: str
    path: str = ""  # in the repository; empty for a preset


def find_policy(
    path: str, preset: str, event: Event, runner: Runner, repository: Repository | None
) -> PolicySource:
    """Return the policy that decides.

    Args:
        path: the input ``policy``; empty for the usual place.
        preset: the input ``preset``; empty unless given.
        event: what happened.
        runner: the job.
        repository: on GitHub; None without a token.

    Raises:
        BadPolicy: there is no such file where it counts, or it cannot be known whether there is.
        NotPublished: GitHub did not answer.
    """
    if preset:
        return _preset(preset)
    found = trusted_file(path or USUAL, event, runner, repository, most=MAX_BYTES)
    wanted, commit, data = found.path, found.commit, found.data
    if data is not None:
        uri = f"{runner.server_url}/{runner.repository}/blob/{commit}/{address_of(wanted)}"
        origin = f"{wanted} at {commit[:12]}"
        return PolicySource(data=data, origin=origin, uri=uri, path=wanted)
    if path:
        raise BadPolicy(
            "the policy file is not where it counts",
            where=wanted,
            got=f"no such file at commit {commit[:12]}",
            expected="the file on the base branch, for a pull request",
            hint="Merge the policy file first, in a pull request of its own, or use a preset.",
        )
    return _preset(DEFAULT_PRESET)


def _preset(name: str) -> PolicySource:
    load_preset(name)  # refuses an unknown name, with the nearest one
    data = resources.files("safety_gate").joinpath("policies", f"{name}.yml").read_bytes()
    return PolicySource(data=data, origin=f"preset {name}", uri=f"urn:safety-gate:preset:{name}")
