"""One file of a dataset on the Hub: at one pinned commit, whole, and checked against its digest."""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from safety_gate.errors import SourceError
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_errors import FOREIGN, HubTooLarge, HubWrongBytes, translate
from safety_gate.sources.hub_names import COMMIT, BadLocation, check_repo_id, check_revision
from safety_gate.sources.paths import check_paths

PLACE: Final = re.compile(r"(?:hf://datasets/)?([^@:?]+)(?:@([^:?]+))?:([^?]+)")
FORM: Final = "org/name@revision:file.jsonl?column=prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlace:
    """A file of a dataset."""

    repo_id: str  # "org/name", checked
    revision: str | None  # branch, tag or commit, checked; None: the main branch
    path: str  # in the repository, checked

    def __str__(self) -> str:
        """Return "org/name@revision:path"."""
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo_id}{at}:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFile:
    """Its bytes, and the commit that they are of."""

    sha: str  # 40 hex digits
    data: bytes


def parse_dataset(text: str) -> DatasetPlace:
    """Read "org/name@revision:path".

    Raises:
        SourceError: it names no file of a dataset.
    """
    found = PLACE.fullmatch(text)
    if found is None:
        raise BadLocation(
            "this names no file of a dataset on the Hub",
            where=text[:200],
            expected=FORM,
            hint="Name repository, revision and file, and the column that holds the questions.",
        )
    repo_id, revision, path = found.groups()
    check_repo_id(repo_id)
    if revision is not None:
        check_revision(revision)
    check_paths([path])
    return DatasetPlace(repo_id=repo_id, revision=revision, path=path)


def read_dataset(
    place: DatasetPlace,
    *,
    max_bytes: int,
    endpoint: str | None = None,
    token: str | Literal[False] | None = None,
) -> DatasetFile:
    """Read a file through the Hub's own client, with the user's token where there is one.

    Args:
        place: what to read.
        max_bytes: larger files are refused before a byte of them is asked for.
        endpoint: address of the Hub; else HF_ENDPOINT, else the public one.
        token: None takes what the client finds, False none at all.

    Raises:
        SourceError: the Hub does not give it, or its bytes are not those of the commit.
    """
    from huggingface_hub import HfApi

    # Our client knows which addresses a token may travel to; theirs knows datasets.
    api = HfApi(endpoint=HubClient(endpoint=endpoint, token=token).endpoint, token=token)
    where = str(place)
    try:
        sha = api.dataset_info(place.repo_id, revision=place.revision).sha
        if sha is None or not COMMIT.fullmatch(sha):
            raise _nonsense(where, str(sha))
        entries = api.get_paths_info(place.repo_id, [place.path], revision=sha, repo_type="dataset")
        entry = entries[0] if entries else None
        size = getattr(entry, "size", None)
        if entry is None or not isinstance(size, int):
            raise _missing(where)
        if size > max_bytes:
            raise HubTooLarge(
                "the file is too large",
                where=where,
                got=f"{size} bytes",
                expected=f"at most {max_bytes} bytes",
                hint="Download the part that you want, and give it as a file.",
            )
        with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
            file = api.hf_hub_download(
                place.repo_id,
                place.path,
                repo_type="dataset",
                revision=sha,
                local_dir=folder,
            )
            data = Path(file).read_bytes()
    except FOREIGN as error:
        raise translate(error, where) from error
    lfs = getattr(entry, "lfs", None)
    if len(data) != size or not _is_digest(data, getattr(entry, "blob_id", ""), lfs):
        raise HubWrongBytes(
            "the bytes are not those of the commit", where=where, hint="Run the gate again."
        )
    return DatasetFile(sha=sha, data=data)


def _is_digest(data: bytes, blob: str, lfs: object) -> bool:
    """Tell whether these are the bytes that the commit's tree names."""
    if lfs is not None:
        return hashlib.sha256(data).hexdigest() == getattr(lfs, "sha256", "")
    named = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)  # git's own name
    return named.hexdigest() == blob


def _nonsense(where: str, got: str) -> SourceError:
    return SourceError(
        "the answer is not what a Hub sends",
        where=where,
        got=got[:80],
        expected="a commit of 40 hex digits",
        hint="Check HF_ENDPOINT, and run the gate again.",
    )


def _missing(where: str) -> SourceError:
    return SourceError(
        "the dataset has no such file at this revision",
        where=where,
        hint="Look at the dataset's page under Files, and give the path that stands there.",
    )
