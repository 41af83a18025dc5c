"""The card of a repaired adapter: front matter for the Hub, then what was changed and how."""

import json
import re
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safety_gate.adapter.inventory import read_bytes
from safety_gate.adapter.ledger import Adapter
from safety_gate.errors import GateError
from safety_gate.policy.yaml_text import Tree, read_yaml
from safety_gate.repair.record import Inputs, Made
from safety_gate.report.inert import Prose
from safety_gate.report.markdown import inert, templates_folder
from safety_gate.report.tables import short_revision

CARD = "README.md"
MOST_MODULES = 60  # rows of the card's table; the manifest has them all
MOST_TAGS = 20
MAX_CARD_BYTES = 2**20
TAGS = ("safety-gate", "repaired", "lora")
# Values of the old card that the Hub needs again: the licence stays what it was.
KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,119}")
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
FRONT = re.compile(rb"---\r?\n(.*?)\r?\n---(?:\r?\n|$)", re.DOTALL)


def card(adapter: Adapter, inputs: Inputs, made: Made) -> str:
    """Return README.md of the repaired adapter."""
    body = (
        _environment()
        .get_template("repaired_card.md.j2")
        .render(
            adapter=inputs.adapter,
            safety=inputs.safety,
            aligned=inputs.aligned,
            base=inputs.base,
            made=made,
        )
    )
    return f"{_front_matter(adapter)}\n{body.strip()}\n"


def _front_matter(adapter: Adapter) -> str:
    """Return YAML: every value a JSON string of harmless characters, so it means one thing."""
    old = _old_front_matter(adapter)
    lines = ["---"]
    claimed = adapter.fact.claimed_base
    if HUB_NAME.fullmatch(claimed):  # the Hub refuses a card whose base_model is a local path
        lines.append(f"base_model: {json.dumps(claimed)}")
    lines.append("library_name: peft")
    for key in KEPT:
        value = old.get(key)
        if isinstance(value, str) and HARMLESS.fullmatch(value):
            lines.append(f"{key}: {json.dumps(value)}")
    given = old.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, tuple) else []
    # The Hub writes tags with a colon itself ("base_model:adapter:..."), from base_model.
    tags = [tag for tag in tags if HARMLESS.fullmatch(tag) and ":" not in tag]
    known = dict.fromkeys((*TAGS, *tags[:MOST_TAGS]))
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in known), "---", ""]
    return "\n".join(lines)


def _old_front_matter(adapter: Adapter) -> dict[str, Tree]:
    """Return the front matter of the adapter's own card; empty where it has none we can read."""
    size = next((fact.size for fact in adapter.fact.files if fact.path == CARD), 0)
    if not 0 < size <= MAX_CARD_BYTES:
        return {}
    found = FRONT.match(read_bytes(adapter.source, CARD, 0, size))
    if found is None:
        return {}
    try:
        tree = read_yaml(found[1], CARD).tree
    except GateError:  # a stranger's YAML may do things that ours must not
        return {}
    return tree if isinstance(tree, dict) else {}


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(templates_folder()),
        undefined=StrictUndefined,
        finalize=inert,
        autoescape=False,  # noqa: S701  finalize sees every value, and Markdown is no HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(MOST_MODULES=MOST_MODULES)
    env.filters.update(prose=Prose, short_revision=short_revision)
    return env
