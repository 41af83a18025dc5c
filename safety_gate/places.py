"""Folders and repositories on the Hub, opened the same way."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safety_gate.checkpoint import Checkpoint
from safety_gate.records import Finding, Place
from safety_gate.sources.folder import FolderSource
from safety_gate.sources.hub_names import HubPlace
from safety_gate.sources.source import Source

if TYPE_CHECKING:
    from safety_gate.sources.hub_client import HubClient

Where: TypeAlias = Path | HubPlace


class Opener:
    """Opens places, and closes all of them at the end; one connection to the Hub serves all."""

    def __init__(self, cache: Path | None = None) -> None:
        """Open nothing yet.

        Args:
            cache: folder for the bytes of checkpoints on the Hub; None keeps nothing on disk.
        """
        self._cache = cache
        self._client: HubClient | None = None
        self.sources: list[Source] = []

    def open(self, where: Where, *, whole: bool) -> Source:
        """Open a place.

        Args:
            where: a folder, or a repository at a revision.
            whole: every file will be read from end to end (an adapter), and checked.

        Raises:
            SourceError: it cannot be read.
        """
        source: Source
        if isinstance(where, Path):
            source = FolderSource(where)
        else:
            from safety_gate.sources.hub import HubSource
            from safety_gate.sources.hub_client import HubClient

            self._client = self._client or HubClient()
            source = HubSource(
                where.repo_id,
                where.revision,
                client=self._client,
                cache=None if whole else self._cache,
                whole=whole,
            )
        self.sources.append(source)
        return source

    def close(self) -> None:
        """Close all sources, and the connection."""
        for source in self.sources:
            source.close()
        if self._client is not None:
            self._client.close()


def ignored_findings(source: Source) -> list[Finding]:
    """Name what lies in the adapter's folder and is no part of the adapter.

    The working files of git and of the Hub's client are never published with it, and PEFT never
    reads them; the digest does not cover them.
    """
    if not isinstance(source, FolderSource):
        return []
    return [
        Finding(
            rule="path-ignored",
            severity="info",
            place=Place(kind="file", name=path),
            what="working files of git or of the Hub's client were not looked at",
            hint="Nothing to do: they are not published with the adapter.",
        )
        for path in source.ignored
    ]


def plan_reads(checkpoint: Checkpoint, weights: Sequence[str]) -> None:
    """Tell a checkpoint on the Hub what will be read, in order: for its budget and read-ahead.

    Raises:
        SourceError: it is more than the budget; nothing was read.
    """
    from safety_gate.sources.hub import HubSource
    from safety_gate.sources.hub_plan import Span

    if not isinstance(checkpoint.source, HubSource):
        return
    spans: list[Span] = []
    for weight in dict.fromkeys(weights):
        if checkpoint.has(weight):
            entry, path = checkpoint.entry(weight), checkpoint.places[weight].path
            span = Span(path=path, start=entry.start, stop=entry.stop)
            apart = all(
                o.path != path or o.stop <= span.start or span.stop <= o.start for o in spans
            )
            if apart:  # views of one tensor overlap; the first stands for all
                spans.append(span)
    checkpoint.source.plan(spans)


def plan_all(checkpoint: Checkpoint) -> None:
    """Tell a checkpoint on the Hub that every tensor will be read, in the order of its files.

    Raises:
        SourceError: it is more than the budget; nothing was read.
    """
    from safety_gate.sources.hub import HubSource
    from safety_gate.sources.hub_plan import Span

    if not isinstance(checkpoint.source, HubSource):
        return
    entries = [(checkpoint.places[name].path, checkpoint.entry(name)) for name in checkpoint.names]
    spans = {Span(path=path, start=entry.start, stop=entry.stop) for path, entry in entries}
    checkpoint.source.plan(sorted(spans, key=lambda span: (span.path, span.start)))
