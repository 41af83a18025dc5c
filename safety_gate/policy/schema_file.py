"""The JSON Schema of the policy file, for editors; refresh it by running this module."""

import json
import os
from pathlib import Path
from typing import Any

from safety_gate.policy.schema import Policy

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "policy.schema.json"
TITLE = "The policy file of Safety Gate, safety-gate.yml"


def schema_text() -> str:
    """Return the schema as it is shipped: sorted keys, two spaces, a newline at the end."""
    schema = _without_nulls(Policy.model_json_schema())
    named = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": TITLE}
    return json.dumps(named, indent=2, sort_keys=True) + "\n"


def _without_nulls(node: Any) -> Any:
    """Drop ``default: null``: leaving a key out is allowed, writing null is not."""
    if isinstance(node, dict):
        kept = {k: v for k, v in node.items() if not (k == "default" and v is None)}
        return {key: _without_nulls(value) for key, value in kept.items()}
    return [_without_nulls(item) for item in node] if isinstance(node, list) else node


def main() -> None:
    """Write the schema beside the file, then rename."""
    beside = SCHEMA_FILE.with_suffix(".new")
    beside.write_text(schema_text(), encoding="utf-8")
    os.replace(beside, SCHEMA_FILE)


if __name__ == "__main__":
    main()
