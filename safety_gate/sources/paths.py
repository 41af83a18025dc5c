"""Which relative paths are safe to read, to copy and to print.

A path of a source must mean the same file on Linux, macOS and Windows, and never one outside
the folder: what is judged here must be what a loader reads there.
"""

import re
import unicodedata
from collections.abc import Iterable

from safety_gate.errors import UnsafePath

MAX_PATH_BYTES = 1024  # macOS PATH_MAX; Linux allows 4096, the Hub's longest paths stay far below
MAX_PART_BYTES = 255  # NAME_MAX of ext4, APFS and NTFS
WINDOWS_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE
)  # "nul.txt" is the device too; superscript digits count as digits there
# Control, format (bidi, zero width), surrogate (a name that is not UTF-8), line, paragraph.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
HINT = "Rename or remove this file, then run the gate again."


def printable(path: str) -> str:
    """Return the path such that it can be encoded, even where its name is not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _fault(path: str) -> str | None:
    """Return why the path as a whole is unsafe, or None."""
    if not path:
        return "the path is empty"
    if "\\" in path:
        return "the path holds a backslash, which separates folders on Windows"
    if ":" in path:
        return "the path holds a colon, which names a drive or a stream on Windows"
    if path.startswith("/"):
        return "the path is absolute"
    if any(unicodedata.category(char) in INVISIBLE for char in path):
        return "the path holds control, invisible or undecodable characters"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"the path is longer than {MAX_PATH_BYTES} bytes"
    return None


def _part_fault(part: str) -> str | None:
    """Return why one component of a path is unsafe, or None."""
    if part in ("", ".", ".."):
        return 'the path has an empty, "." or ".." part'
    if len(part.encode()) > MAX_PART_BYTES:
        return f"a part of the path is longer than {MAX_PART_BYTES} bytes"
    if part[-1] in ". " or part[0] == " ":
        return "a part of the path begins with a space, or ends with a space or a dot"
    if WINDOWS_DEVICES.fullmatch(part):
        return "a part of the path is a device name on Windows"
    return None


def check_path(path: str) -> None:
    """Raise UnsafePath unless ``path`` is relative, inside, and means the same file everywhere."""
    fault = _fault(path)
    if fault is None:
        fault = next(filter(None, map(_part_fault, path.split("/"))), None)
    if fault is not None:
        raise UnsafePath(
            fault,
            where=printable(path[:MAX_PATH_BYTES]) or "(empty path)",
            expected="a relative path with forward slashes",
            hint=HINT,
        )


def _folded(path: str) -> str:
    """Return what a file system that ignores case and Unicode composition sees."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def check_paths(paths: Iterable[str]) -> None:
    """Check every path, and that no two of them are one file on another file system.

    Folders count as well: "A/x" and "a/y" share a folder where case is ignored.
    """
    seen: dict[str, str] = {}  # folded path or folder -> as it is written
    for path in paths:
        check_path(path)
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            written = "/".join(parts[:depth])
            other = seen.setdefault(_folded(written), written)
            if other != written:
                raise UnsafePath(
                    "two paths differ only in case or in Unicode composition",
                    where=written,
                    got=other,
                    expected="paths that stay apart on every file system",
                    hint=HINT,
                )
