"""Base and aligned where the user names none: from the list of known pairs, and only from there.

What an adapter claims to be trained on is looked up in that list; it is never fetched.
"""

from dataclasses import dataclass

from safety_gate import strict_json
from safety_gate.errors import BadAdapter, MissingFile
from safety_gate.places import Where
from safety_gate.records import Finding, Place
from safety_gate.sources.hub_names import HubPlace, parse_location
from safety_gate.sources.pairs import Pair, Pairs
from safety_gate.sources.source import Source

CONFIG = "adapter_config.json"
CLAIM = "base_model_name_or_path"
MAX_BYTES = 2**20
MAX_DEPTH = 16
HINT = (
    "Give --base and --aligned, or add the pair under models: in the policy file; "
    "docs/hub.md says which pairs are known."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which two checkpoints the adapter is judged against."""

    base: Where
    aligned: Where
    findings: tuple[Finding, ...] = ()


def choose(base: Where | None, aligned: Where | None, adapter: Source, pairs: Pairs) -> Chosen:
    """Return both checkpoints; what the user names always counts.

    Args:
        base: as the user names it; None to look it up.
        aligned: likewise.
        adapter: whose claim is looked up where aligned is not named either.
        pairs: the shipped ones, and those of the policy before them.

    Raises:
        BadAdapter: its config does not say what it was trained on, or no known pair has the name.
        SourceError: its config cannot be read.
    """
    if base is not None and aligned is not None:
        return Chosen(base=base, aligned=aligned)
    claim = aligned.repo_id if isinstance(aligned, HubPlace) else claimed(adapter)
    pair = pairs.find(claim)
    if pair is None:
        raise BadAdapter(
            "base and aligned are not named, and no known pair has this name",
            where=CLAIM,
            got=claim,
            expected="one of the known pairs",
            hint=HINT,
        )
    return Chosen(
        base=base or _place(pair.base),
        aligned=aligned or _place(pair.aligned),
        findings=(_told(pair),),
    )


def claimed(adapter: Source) -> str:
    """Return what the adapter says it was trained on; a stranger's text.

    Raises:
        BadAdapter: the config is no JSON, or does not say it.
        SourceError: it cannot be read.
    """
    size = next((file.size for file in adapter.files() if file.path == CONFIG), None)
    if size is None:
        raise MissingFile(
            "there is no adapter here",
            where=adapter.name,
            expected=CONFIG,
            hint="Name the folder or repository that holds adapter_config.json.",
        )
    data = bytearray(min(size, MAX_BYTES + 1))
    adapter.read_into(CONFIG, 0, memoryview(data))
    config = strict_json.parse(
        bytes(data), where=CONFIG, error=BadAdapter, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH
    )
    claim = config.get(CLAIM) if isinstance(config, dict) else None
    if not isinstance(claim, str) or not claim:
        raise BadAdapter(
            "the adapter does not say which model it was trained on",
            where=CONFIG,
            expected=f"a name under {CLAIM}",
            hint="Give --base and --aligned.",
        )
    return claim


def _place(name: str) -> Where:
    # A folder of this name could come with a stranger's pull request.
    found = parse_location(name, shadowing="refuse")
    return found if isinstance(found, HubPlace) else found.path


def _told(pair: Pair) -> Finding:
    return Finding(
        rule="pair-looked-up",
        severity="info",
        place=Place(kind="config", name=CLAIM),
        what=f"base and aligned were looked up ({pair.origin})",
        got=f"aligned {pair.aligned}, base {pair.base}",
        hint="Name them with --base and --aligned to judge against others.",
    )
