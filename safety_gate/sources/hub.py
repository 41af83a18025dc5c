"""A repository on the Hub as a source: one pinned commit, read by ranges, nothing on disk."""

import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safety_gate.errors import ChangedWhileRead, SourceError
from safety_gate.sources.hub_ahead import AheadLimits, ReadAhead, ended
from safety_gate.sources.hub_answers import HubFile, Pinned
from safety_gate.sources.hub_cache import HubCache
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_digests import Digest, WholeFile, expected_digest
from safety_gate.sources.hub_errors import HubError, HubTooLarge, HubWrongBytes, missing_file
from safety_gate.sources.hub_kept import Kept
from safety_gate.sources.hub_plan import PlanFact, ReadPlan, Span
from safety_gate.sources.hub_ranges import HubRanges
from safety_gate.sources.paths import check_paths
from safety_gate.sources.source import FileEntry

SMALL: Final = 10 * 2**20  # bytes; outside LFS, whose sha256 is known, the Hub takes none larger
HEAD: Final = 256 * 1024  # bytes; 97% of safetensors headers have less than 100 kB
KEPT: Final = 32 * 2**20  # bytes of small files and heads in memory
# Times the budget that may come over the network: wide modules are read in two passes, and what
# was cut off is asked for again.
REPEATS: Final = 3
BUDGET: Final = "SAFETY_GATE_HUB_GB"
BUDGET_HINT: Final = (
    f"Check that the right repository is named. If it is, raise the budget (gigabytes in {BUDGET}),"
    " or download it and give its folder."
)
GB: Final = 10**9
MOST_GB: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """What reading one repository may take."""

    bytes: int = 200 * 10**9  # of a plan; a 70B model in bf16 has 141 GB
    files: int = 20_000
    small_bytes: int = SMALL  # of one file that is read whole and checked
    ahead: AheadLimits = field(default_factory=AheadLimits)

    @classmethod
    def given(cls, environment: Mapping[str, str]) -> "HubLimits":
        """Return the limits, with the budget that the user may have set in the environment.

        Args:
            environment: SAFETY_GATE_HUB_GB is a whole number of 10^9 bytes; empty means not set.

        Raises:
            HubError: it is no such number.
        """
        text = environment.get(BUDGET, "")
        if not text:
            return cls()
        if not (
            text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MOST_GB
        ):
            raise HubError(
                "the budget for reading from the Hub is no number of gigabytes",
                where=BUDGET,
                got=text,
                expected=f"a whole number from 1 to {MOST_GB}",
                hint=f"Set {BUDGET} to a number such as 900, or unset it.",
            )
        return cls(bytes=int(text) * GB)


class HubSource:
    """The files of one commit of a model repository.

    The revision is resolved to a commit first, and every byte is read at that commit. Small files
    (HubLimits.small_bytes) are read whole and checked against the digest in the commit's tree. Of
    larger files only the spans asked for are read; TLS, the commit in the address, and etag and
    size at every renewal of the address vouch for them, for the Hub gives no digest of a part.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        client: HubClient,
        limits: HubLimits | None = None,
        cache: Path | None = None,
        whole: bool = False,
    ) -> None:
        """Resolve the revision and list the files; no file is read.

        Args:
            repo_id: organisation and name.
            revision: branch, tag, refs/pr/N or commit; None is the main branch.
            client: asks the Hub.
            limits: bytes, files and memory; None: the usual ones, and the user's budget.
            cache: folder to keep blocks in; None keeps nothing on disk.
            whole: every file will be read from end to end, as ``snapshot`` does, and checked.

        Raises:
            SourceError: BadLocation, UnsafePath, HubTooLarge or another HubError.
        """
        self._name = repo_id
        self._limits = limits or HubLimits.given(os.environ)
        self.pinned: Pinned = client.resolve(repo_id, revision)
        self._files = self._listed(client)
        self._sizes = {path: file.size for path, file in self._files.items()}
        most = REPEATS * self._limits.bytes
        self._ranges = HubRanges(client, self.pinned, self._files, limit_bytes=most)
        self._read = self._ranges.read
        if cache is not None:
            self._read = HubCache(cache, self.pinned, self._sizes, self._read).read
        self._ahead = ReadAhead(self._read, self._sizes, self._limits.ahead)
        self._kept = Kept(KEPT)
        self._lock = threading.Lock()
        self._touched: set[str] = set()  # guarded by the lock
        self._whole: dict[str, WholeFile] | None = {} if whole else None  # guarded, too
        self._closed = False
        self._plan_all()

    def _listed(self, client: HubClient) -> dict[str, HubFile]:
        tree = client.tree(self.pinned, max_files=self._limits.files)
        check_paths(file.path for file in tree)
        return {file.path: file for file in sorted(tree, key=lambda file: file.path)}

    def _plan_all(self) -> None:
        """With ``whole``: hold all files against the budget, and read large ones ahead in order."""
        if self._whole is None:
            return
        self._check_budget(sum(self._sizes.values()))
        large = {p: size for p, size in self._sizes.items() if size > self._limits.small_bytes}
        self.plan(Span(path=path, start=0, stop=size) for path, size in large.items())

    @property
    def name(self) -> str:
        """Return what the user called it; a stranger's text."""
        return self._name

    @property
    def revision(self) -> str:
        """Return the commit: 40 hex digits."""
        return self.pinned.sha

    @property
    def received(self) -> int:
        """Return the bytes of files that came over the network so far."""
        return self._ranges.received

    def files(self) -> tuple[FileEntry, ...]:
        """Return every file, sorted by path; subfolders included."""
        return tuple(FileEntry(path=path, size=file.size) for path, file in self._files.items())

    def expected_digests(self) -> Mapping[str, Digest]:
        """Return the digest that the tree of the commit gives for each file."""
        return MappingProxyType({p: expected_digest(file) for p, file in self._files.items()})

    def plan(self, spans: Iterable[Span]) -> PlanFact:
        """Count what will be read, and read ahead in this order from now on.

        Args:
            spans: in the order of their first read, without overlaps: the tensors of the modules.

        Raises:
            HubTooLarge: it is more than the budget; nothing was read.
            SourceError: a span is not inside its file.
        """
        plan = ReadPlan(spans)
        for span in plan.spans:
            self._check_inside(self._find(span.path), span.start, span.stop)
        self._check_budget(plan.fact().bytes)
        self._ahead.expect(plan)
        return plan.fact()

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of ``path`` from ``start`` on.

        Raises:
            MissingFile: the commit has no such file.
            HubError: the bytes cannot be had, or are not those of the commit.
        """
        file = self._find(path)
        stop = start + buffer.nbytes
        self._check_inside(file, start, stop)
        if start == stop:
            return  # memoryview.cast() refuses empty views
        if self._closed:
            raise ended(path)
        with self._lock:
            self._touched.add(path)
        view = buffer.cast("B")
        if file.size <= self._limits.small_bytes:
            view[:] = self._kept.get(path, lambda: self._small(file))[start:stop]
        elif stop <= HEAD and self._whole is None:
            view[:] = self._kept.get(path, lambda: self._head(file))[start:stop]
        else:
            self._ahead.read(path, start, view)
            self._hash(file, start, view)

    def verify(self) -> None:
        """Ask the Hub once more for every file that was read.

        Raises:
            ChangedWhileRead: it names other contents now, or a file was not read whole although
                it should have been.
            HubError: it does not tell, such as for a commit that is gone.
        """
        with self._lock:
            touched = sorted(self._touched)
            partial = [path for path, whole in (self._whole or {}).items() if not whole.complete]
        if partial:
            raise self._changed("a file was not read as a whole", partial[0])
        try:
            with ThreadPoolExecutor(self._limits.ahead.connections) as pool:
                list(pool.map(self._ranges.recheck, touched))
        except HubWrongBytes as error:
            raise self._changed("the Hub names another content than before", error.where) from None

    def close(self) -> None:
        """Close all connections and let go of all memory; a second call does nothing."""
        self._closed = True
        self._ranges.close()  # first, so that what is under way ends
        self._ahead.close()
        self._kept.clear()

    def _find(self, path: str) -> HubFile:
        file = self._files.get(path)
        if file is None:
            raise missing_file(path, self._where())
        return file

    def _where(self, path: str | None = None) -> str:
        pinned = f"{self.pinned.repo_id}@{self.pinned.sha}"
        return pinned if path is None else f"{pinned}: {path}"

    def _check_inside(self, file: HubFile, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= file.size:
            raise SourceError(
                "the bytes asked for are not inside the file",
                where=self._where(file.path),
                got=f"bytes {start} to {stop}",
                expected=f"at most {file.size} bytes",
                hint="The file is probably incomplete: its publisher has to upload it again.",
            )

    def _check_budget(self, count: int) -> None:
        if count > self._limits.bytes:
            raise HubTooLarge(
                "more would have to be read than the budget allows",
                where=self._where(),
                got=f"{count} bytes",
                expected=f"at most {self._limits.bytes} bytes",
                hint=BUDGET_HINT,
            )

    def _small(self, file: HubFile) -> memoryview:
        """Read a small file whole and check it."""
        room = memoryview(bytearray(file.size))
        self._read(Span(path=file.path, start=0, stop=file.size), room)
        WholeFile(file, self._where(file.path)).add(0, room)
        return room

    def _head(self, file: HubFile) -> memoryview:
        """Read the beginning of a large file: a header is read in two steps."""
        room = memoryview(bytearray(min(HEAD, file.size)))
        self._read(Span(path=file.path, start=0, stop=len(room)), room)
        return room

    def _hash(self, file: HubFile, start: int, view: memoryview) -> None:
        """With ``whole``: hash what was read, and check the file at its end."""
        if self._whole is None:
            return
        with self._lock:
            new = WholeFile(file, self._where(file.path))
            whole = self._whole.setdefault(file.path, new)
            whole.add(start, view)

    def _changed(self, what: str, where: str) -> ChangedWhileRead:
        return ChangedWhileRead(what, where=where, hint="Run the gate again.")
