"""Tells the Hub what was found: model card, discussion, comment, repaired adapter.

Nothing here decides anything, and nothing is raised: what goes wrong becomes a record with a
reason and a next step. docs/hub_publishing.md says what is written where, and with which token.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from safety_gate import __version__
from safety_gate.errors import GateError
from safety_gate.publish.hub_card import publish_card
from safety_gate.publish.hub_desk import MARK, PATIENCE, Desk, Target
from safety_gate.publish.hub_discussion import Begin, Letter, publish_comment, publish_discussion
from safety_gate.publish.hub_fault import DiscussionsDisabled
from safety_gate.publish.hub_parcel import Variant
from safety_gate.publish.hub_told import HubChannel, HubPublished, HubTold
from safety_gate.publish.hub_variant import publish_variant
from safety_gate.publish.hub_words import Kind, card_section, letter, picture_of, publication_of
from safety_gate.records import Report
from safety_gate.report.heat_picture import heat_alt, heat_png
from safety_gate.sources.hub_patience import Patience, Transient


@dataclass(frozen=True, slots=True, kw_only=True)
class HubWishes:
    """What is to be told, and where."""

    card: bool = False  # our section of the model card on the main branch
    discussion: Begin = "on-failure"  # our one discussion, about the main branch
    comment: Begin = "always"  # our one comment on the pull request that was judged
    picture: bool = True  # the heat map in both
    variant: Variant | None = None  # a repaired adapter to be offered
    gate_id: str = "safety-gate"  # tells the comments of several gates apart
    run_url: str = ""  # our own: where the run can be looked at
    contact: str = ""  # our own words: where people can be asked


def connect(token: str, *, endpoint: str | None = None) -> HfApi:
    """Return a client that may write; nothing is asked yet.

    Args:
        token: fine-grained, for the scopes of docs/hub_publishing.md; never the one for reading.
        endpoint: address of the Hub; else HF_ENDPOINT, else the public one.
    """
    return HfApi(
        endpoint=endpoint, token=token, library_name="safety-gate", library_version=__version__
    )


def is_ours(title: str) -> bool:
    """Tell whether a commit or pull request of this title claims to be ours.

    Anybody can write the same: it may spare a run for a commit that changes the card alone, and
    never excuses one from being judged. The oids of ``HubPublished`` are certain.
    """
    return title.endswith(MARK)


def publish_hub(
    api: HfApi,
    target: Target,
    report: Report,
    wishes: HubWishes,
    *,
    patience: Patience = PATIENCE,
) -> HubPublished:
    """Tell the Hub what was found; return what got through and what did not.

    Args:
        api: the client that may write.
        target: what was judged.
        report: what was found.
        wishes: what is to be told.
        patience: how long to wait.
    """
    desk = Desk(api=api, repo_id=target.repo_id, patience=patience)
    letters = _Round(desk=desk, target=target, report=report, wishes=wishes)
    return HubPublished(told=tuple(_safely(channel, step) for channel, step in letters.steps()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """All letters of one run."""

    desk: Desk
    target: Target
    report: Report
    wishes: HubWishes

    def steps(self) -> list[tuple[HubChannel, Callable[[], HubTold]]]:
        """Return what is wanted: the offer first, so that its address is there for the rest."""
        wanted: list[tuple[HubChannel, Callable[[], HubTold]]] = []
        if self.wishes.variant is not None:
            wanted.append(("repaired adapter", self._variant))
        if self.wishes.card:
            wanted.append(("model card", self._card))
        if self.target.pull_request is None and self.wishes.discussion != "never":
            wanted.append(("discussion", self._discussion))
        if self.target.pull_request is not None and self.wishes.comment != "never":
            wanted.append(("comment", self._comment))
        return wanted

    def _variant(self) -> HubTold:
        if self.wishes.variant is None:
            raise AssertionError("no variant to offer")
        return publish_variant(self.desk, self.target, self.wishes.variant)

    def _card(self) -> HubTold:
        section = card_section(self.report, self.target.sha)
        word = self.report.verdict.word
        return publish_card(self.desk, self.target, section, word=word)

    def _discussion(self) -> HubTold:
        return publish_discussion(self.desk, self._letter("discussion", self.wishes.discussion))

    def _comment(self) -> HubTold:
        return publish_comment(self.desk, self._letter("comment", self.wishes.comment))

    def _letter(self, kind: Kind, begin: Begin) -> Letter:
        publication = publication_of(
            self.report,
            self.target.repo_id,
            self.target.sha,
            gate_id=self.wishes.gate_id,
            run_url=self.wishes.run_url,
        )
        return Letter(
            target=self.target,
            publication=publication,
            begin=begin,
            render=lambda: letter(
                publication,
                kind,
                account=self.desk.account,
                picture=self._picture(),
                contact=self.wishes.contact,
            ),
        )

    def _picture(self) -> str:
        """Return the heat map as Markdown; words are enough where it cannot be shown."""
        if not self.wishes.picture or not self.report.modules:
            return ""
        try:
            png = heat_png(self.report)
            with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
                file = Path(folder) / "heat-map.png"
                file.write_bytes(png)
                address = self.desk.ask(lambda: self.desk.api.upload_attachment(file))
        except (GateError, Transient, OSError):
            return ""
        return picture_of(address, heat_alt(self.report))


def _safely(channel: HubChannel, step: Callable[[], HubTold]) -> HubTold:
    """Take a step; what goes wrong is what is told."""
    try:
        return step()
    except DiscussionsDisabled as error:
        return HubTold(channel=channel, state="skipped", why=error.what, hint=error.hint)
    except GateError as error:
        why = f"{error.what} ({error.got})" if error.got else error.what
        return HubTold(channel=channel, state="failed", why=why, hint=error.hint)
