"""Which relative paths are safe."""

import pytest

from safety_gate.errors import UnsafePath
from safety_gate.sources.paths import check_path, check_paths

SAFE = [
    "a",
    "a/b.json",
    "ä/…",
    "…",
    "a b",
    "-x",
    "model-00001-of-00002.safetensors",
    ".hidden",
    "a..b",
]
UNSAFE = [
    "", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/./b", "a/..", "../a", "a/../../b",
    "C:", "C:/a", "c:a", "a:stream", "\\\\host\\share", "//host/share", "..\\a", "a\\b",
    "a\0b", "a\nb", "a\x1b[31m", "a\x7f", "a\u0085b", "a\u202eb", "a\u200bb", "a\u2028b", "a\ufeff",
    "\udcff", "con", "NUL", "a/aux.txt", "com1", "LPT9.tar.gz", "COM¹", "CONIN$", "a.", "a ", " a",
    "x/a. /y", "a" * 256, "ä" * 128, "a/" * 512 + "a",
]  # fmt: skip


@pytest.mark.parametrize("path", SAFE)
def test_safe_path(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_unsafe_path(path: str) -> None:
    with pytest.raises(UnsafePath) as caught:
        check_path(path)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "A"),
        ("Model/x", "model/y"),
        ("straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("x", "X/y"),
        ("\u00c9/a", "e\u0301/b"),
    ],
)
def test_paths_that_collide(paths: tuple[str, str]) -> None:
    with pytest.raises(UnsafePath, match="differ only in case"):
        check_paths(paths)
    check_paths((paths[0], paths[0] + "/other"))
