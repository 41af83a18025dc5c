"""The tree at the top of errors.py names every error of the package, and no other."""

import ast
import re
from pathlib import Path

from safety_gate import errors

PACKAGE = Path(errors.__file__).parent


def classes() -> dict[str, set[str]]:
    """Return every class of the package with the names of its bases."""
    return {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def test_the_tree_names_every_error() -> None:
    known, found = classes(), {"GateError"}
    while more := {name for name, bases in known.items() if bases & found} - found:
        found |= more
    tree = (errors.__doc__ or "").split("Every message")[0]
    drawn = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", tree))
    assert drawn == found
