"""Where in a repository a finding belongs: the file that a reader would open."""

from urllib.parse import quote

from safety_gate.errors import UnsafePath
from safety_gate.records import Finding, Report
from safety_gate.report.inert import shown
from safety_gate.sources.paths import check_path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_SUFFIX = ".safetensors"


def file_of(finding: Finding, report: Report, *, folder: str, policy: str = "") -> str:
    """Return the path of the file that a finding is about; always inside the repository.

    Args:
        finding: what was found; the name of its place is a stranger's text.
        report: the report it stands in.
        folder: of the adapter, relative to the top of the repository; "" or "." for the
            top.
        policy: path of the policy file in the repository, where it has one.
    """
    match finding.place.kind:
        case "policy" if policy:
            return policy
        case "file":
            name = finding.place.name if is_safe(finding.place.name) else CONFIG
        case "tensor" | "module":
            name = _weights(report)
        case _:
            name = CONFIG
    return name if folder in ("", ".") else f"{folder}/{name}"


def place_of(finding: Finding) -> str:
    """Say what a finding is about, in plain and inert words."""
    name = shown(finding.place.name)
    return name if finding.place.kind == "adapter" else f"{finding.place.kind} {name}"


def address_of(path: str) -> str:
    """Write a path as a relative URI reference."""
    return quote(path, safe="/", errors="replace")


def _weights(report: Report) -> str:
    """Return the adapter's one safetensors file; the usual name where that is not clear."""
    files = report.adapter.files if report.adapter else ()
    found = [f.path for f in files if f.path.endswith(_SUFFIX) and is_safe(f.path)]
    return found[0] if len(found) == 1 else WEIGHTS


def is_safe(path: str) -> bool:
    """Tell whether a path stays inside the repository."""
    try:
        check_path(path)
    except UnsafePath:
        return False
    return True
