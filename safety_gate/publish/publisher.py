"""Everything that a run tells GitHub, step by step; no step stops another, none raises."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from github import Github

from safety_gate.publish.body import comment_body
from safety_gate.publish.check_run import publish_check_run
from safety_gate.publish.comment import Mode, Thread, publish_comment
from safety_gate.publish.github import FOREIGN, NotPublished, Patience, connect, translated
from safety_gate.publish.publication import Publication
from safety_gate.publish.sarif_upload import Analysis, publish_sarif
from safety_gate.publish.status import publish_status
from safety_gate.publish.told import Channel, Published, Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a workflow wants to be told, and where."""

    comment: Mode = "always"
    pull_request: int | None = None  # None: there is none to comment on
    check_run: bool = False
    commit_status: bool = False
    external_id: str = ""  # of this run of the job
    sarif: str = ""  # the file's text; empty: no upload
    analysis: Analysis | None = None
    policy: str = ""  # path of the policy file in the repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Which repository, by which server and token."""

    repository: str  # "owner/name"
    api_url: str
    token: str  # never printed

    def __repr__(self) -> str:
        """Leave the token out of logs and tracebacks."""
        return f"Address({self.repository!r}, {self.api_url!r})"


def publish(
    publication: Publication,
    wishes: Wishes,
    address: Address,
    *,
    patience: Patience | None = None,
) -> Published:
    """Tell GitHub what a run found; return what got through and what did not."""
    channels = _channels(wishes)
    if not channels:
        return Published()
    if not address.token:
        return _all_failed(channels, "there is no token", "Give github-token, or its default.")
    try:
        client = connect(address.token, api_url=address.api_url, patience=patience)
    except FOREIGN:
        return _all_failed(channels, "GITHUB_API_URL is no address", "Give https://HOST/api/v3.")
    desk = _Desk(client, publication, wishes, address.repository, patience)
    try:
        return Published(told=tuple(desk.tell(channel) for channel in channels))
    finally:
        client.close()


def _channels(wishes: Wishes) -> list[Channel]:
    """Return where to tell, the comment last: it may take longest."""
    wanted: dict[Channel, bool] = {
        "commit status": wishes.commit_status,
        "check run": wishes.check_run,
        "code scanning": bool(wishes.sarif) and wishes.analysis is not None,
        "comment": wishes.pull_request is not None and wishes.comment != "never",
    }
    return [channel for channel, yes in wanted.items() if yes]


def _all_failed(channels: list[Channel], why: str, hint: str) -> Published:
    return Published(
        told=tuple(Told(channel=c, state="failed", why=why, hint=hint) for c in channels)
    )


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where the letters of one run are written."""

    client: Github
    publication: Publication
    wishes: Wishes
    repository: str
    patience: Patience | None

    def tell(self, channel: Channel) -> Told:
        """Write one letter; what goes wrong is what is told."""
        steps: dict[Channel, Callable[[], Told]] = {
            "commit status": self._status,
            "check run": self._check_run,
            "code scanning": self._sarif,
            "comment": self._comment,
        }
        try:
            return steps[channel]()
        except NotPublished as error:
            why = f"{error.what} ({error.got})" if error.got else error.what
            return Told(channel=channel, state="failed", why=why, hint=error.hint)

    def _status(self) -> Told:
        return publish_status(
            self.client, self.repository, self.publication, patience=self.patience
        )

    def _check_run(self) -> Told:
        return publish_check_run(
            self.client,
            self.repository,
            self.publication,
            external_id=self.wishes.external_id,
            policy=self.wishes.policy,
            patience=self.patience,
        )

    def _sarif(self) -> Told:
        analysis, sarif = self.wishes.analysis, self.wishes.sarif
        if analysis is None:
            raise AssertionError("code scanning without a commit to hang it on")
        return publish_sarif(self.client, self.repository, sarif, analysis, patience=self.patience)

    def _comment(self) -> Told:
        """Comment, unless the pull request has moved on: a newer run speaks for its new head."""
        number, gate_id = self.wishes.pull_request, self.publication.gate_id
        if number is None:
            raise AssertionError("a comment without a pull request")
        with translated("comment"):
            head = self.client.get_repo(self.repository).get_pull(number).head.sha
        if head != self.publication.commit:
            why = "the pull request has a newer commit, which has a run of its own"
            return Told(channel="comment", state="skipped", why=why)
        with translated("comment"):
            thread = Thread.open(self.client, self.repository, number, gate_id)
        return publish_comment(
            thread,
            self.publication,
            mode=self.wishes.comment,
            render=partial(comment_body, self.publication),
            patience=self.patience,
        )
