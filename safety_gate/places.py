"""Folders and repositories on the Hub, opened the same way."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import ChangedWhileRead
from safety_gate.records import CheckpointFact, Finding, Place
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


def fact_of(checkpoint: Checkpoint, *, whole: bool) -> CheckpointFact:
    """Return what was read; whole files of a repository are compared with the commit's digests.

    Raises:
        ChangedWhileRead: a file is not the one that the commit names.
        SourceError: it cannot be read.
    """
    from safety_gate.sources.hub import HubSource

    fact = checkpoint.fact(hash_files=whole)
    if isinstance(checkpoint.source, HubSource):
        expected = checkpoint.source.expected_digests()
        for file in fact.files:
            digest = expected[file.path]
            if file.sha256 and digest.kind == "sha256" and file.sha256 != digest.hex:
                raise ChangedWhileRead(
                    "a file's bytes are not those of the commit",
                    where=file.path,
                    got=f"sha256 {file.sha256}",
                    expected=f"sha256 {digest.hex}",
                    hint="Run again; if it stays, do without the mirror or the cache.",
                )
    return fact


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
        for extent in checkpoint.extents(weight) if checkpoint.has(weight) else ():
            span = Span(path=extent.path, start=extent.start, stop=extent.stop)
            apart = all(
                o.path != span.path or o.stop <= span.start or span.stop <= o.start for o in spans
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
    extents = (extent for name in checkpoint.names for extent in checkpoint.extents(name))
    spans = {Span(path=each.path, start=each.start, stop=each.stop) for each in extents}
    checkpoint.source.plan(sorted(spans, key=lambda span: (span.path, span.start)))
