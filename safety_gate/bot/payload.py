"""What the Hub sends to the webhook, and what of it is to be judged.

Our own models: the client's drop ``headSha`` and refuse scopes and kinds of repository that they
do not know. Unknown fields are allowed everywhere, for the Hub adds some now and then. The payload
is a hint: what is judged is read from the Hub again, at the commit that is named here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from safety_gate.jobs.facts import JUDGED_REFS, LIVE, Arrival, Ignored, Reason, Wanted
from safety_gate.sources.hub_names import is_repo_id

MAIN: Final = "refs/heads/main"
MAX_REFS: Final = 1000  # of one push; the Hub's own limit is not documented


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError("not the name of a repository")
    return text


Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Ref = Annotated[str, StringConstraints(pattern=r"^refs/[A-Za-z0-9][A-Za-z0-9._/+-]{0,248}$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[str, StringConstraints(max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, alias_generator=to_camel)


class Event(_Part):
    """What happened; scopes may get narrower, so only their beginning counts."""

    action: Word
    scope: Word


class Repo(_Part):
    """Where it happened."""

    type: Word
    name: Name
    head_sha: Sha | None = None  # of main; sent for repo scopes only


class UpdatedRef(_Part):
    """A branch, tag or pull request that points elsewhere; no new sha: it is gone."""

    ref: Ref
    new_sha: Sha | None = None


class Payload(_Part):
    """One event, as far as we read it."""

    event: Event
    repo: Repo
    updated_refs: Annotated[tuple[UpdatedRef, ...], Field(max_length=MAX_REFS, strict=False)] = ()


def payload_schema() -> dict[str, Any]:
    """Return the JSON Schema of a payload in one piece, for OpenAPI has no ``$defs``."""
    schema = Payload.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(tree: Any) -> Any:
        match tree:
            case {"$ref": str(name)}:
                return whole(parts[name.rsplit("/", 1)[-1]])
            case dict():
                return {key: whole(value) for key, value in tree.items()}
            case list():
                return [whole(value) for value in tree]
            case _:
                return tree

    return {key: whole(value) for key, value in schema.items()}


class _ModelName(BaseModel):
    name: Annotated[str, AfterValidator(_repo_id)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Whose adapters are judged."""

    policy: str  # sha256 of the policy that decides
    watched: frozenset[str] = frozenset()  # "owner" or "owner/name"; empty: all that is sent
    opted_out: frozenset[str] = frozenset()  # "owner" or "owner/name"

    def refusal(self, repo: str) -> Reason | None:
        """Return why a repository is not judged; None where it is."""
        names = {repo.lower(), repo.split("/")[0].lower()}
        if names & {name.lower() for name in self.opted_out}:
            return "opted-out"
        if self.watched and not names & {name.lower() for name in self.watched}:
            return "not-watched"
        return None


def arrivals(payload: Payload, watch: Watch) -> list[Arrival]:
    """Return what this event asks for, one by one; never nothing.

    Raises:
        pydantic.ValidationError: a model repository has a name that could not be one.
    """
    return list(_arrivals(payload, watch))


def _arrivals(payload: Payload, watch: Watch) -> Iterator[Arrival]:
    repo = payload.repo.name
    moved = payload.updated_refs or tuple(_head_of_main(payload))
    if payload.repo.type != "model":
        yield Ignored(repo=repo, ref="", sha="", reason="not-an-adapter")
        return
    _ModelName(name=repo)
    if refusal := watch.refusal(repo):
        yield Ignored(repo=repo, ref="", sha="", reason=refusal)
        return
    for one in moved:
        yield _arrival(repo, one, watch)
    if not moved:
        yield Ignored(repo=repo, ref="", sha="", reason="no-commit")


def _arrival(repo: str, moved: UpdatedRef, watch: Watch) -> Arrival:
    if moved.new_sha is None:
        return Ignored(repo=repo, ref=moved.ref, sha="", reason="ref-deleted")
    if not moved.ref.startswith(JUDGED_REFS):
        return Ignored(repo=repo, ref=moved.ref, sha=moved.new_sha, reason="ref-ignored")
    return Wanted(repo=repo, ref=moved.ref, sha=moved.new_sha, policy=watch.policy, priority=LIVE)


def _head_of_main(payload: Payload) -> Iterator[UpdatedRef]:
    """Yield main where a repository was made or changed without naming refs."""
    event, head = payload.event, payload.repo.head_sha
    if event.scope.split(".")[0] == "repo" and event.action != "delete" and head is not None:
        yield UpdatedRef.model_validate({"ref": MAIN, "newSha": head})
