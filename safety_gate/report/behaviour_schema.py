"""The part of the report's JSON Schema that describes what the model said.

It follows from the facts themselves; run this module to write it into the schema file again.
"""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from safety_gate.behaviour import BehaviourFact

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "report.schema.json"


def behaviour_schema() -> dict[str, Any]:
    """Return the definitions by name, "behaviour" for the whole; nothing unknown is allowed."""
    whole = TypeAdapter(BehaviourFact).json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = whole.pop("$defs")
    whole["properties"]["figures"] = {
        "description": "what a policy may rule on, by variant and metric",
        "type": "object",
        "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    whole["required"] = [*whole["required"], "figures"]
    return {name: _strict(one) for name, one in {**definitions, "behaviour": whole}.items()}


def _strict(definition: Any) -> Any:
    if "properties" not in definition:
        return definition
    return {**definition, "additionalProperties": False}


def schema_text(text: str) -> str:
    """Return the schema file's text with this part as the facts have it."""
    schema = json.loads(text)
    schema["properties"]["behaviour"] = {
        "description": "what the model itself said; null where it was not asked",
        "oneOf": [{"$ref": "#/$defs/behaviour"}, {"type": "null"}],
    }
    schema["$defs"] |= behaviour_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file beside, then rename."""
    beside = SCHEMA_FILE.with_suffix(".new")
    beside.write_text(schema_text(SCHEMA_FILE.read_text(encoding="utf-8")), encoding="utf-8")
    os.replace(beside, SCHEMA_FILE)


if __name__ == "__main__":
    main()
