"""The command ``inspect``: tasks of inspect_ai, before and after the adapter."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from safety_gate.cli_parts import PLACE

if TYPE_CHECKING:
    from safety_gate.inspecting import InspectFact


@click.command()
@click.argument("adapter", type=PLACE)
@click.argument("tasks", nargs=-1, required=True)
@click.option("--aligned", type=PLACE, required=True, help="Checkpoint of the adapter.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option("--limit", type=click.IntRange(min=1), help="Samples of each task.  [default: all]")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("-T", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the tasks.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def inspect(**given: Any) -> None:
    """Run TASKS of inspect_ai on the aligned model and on it with ADAPTER.

    TASKS are as `inspect eval` takes them, such as inspect_evals/xstest. They are code that runs
    here, so name only those that you trust. The exit status is 0 where all came to their end: no
    verdict is made of their scores.
    """
    from safety_gate.inspecting import Wish
    from safety_gate.inspecting import inspect as run
    from safety_gate.places import Opener

    wish = Wish(
        tasks=given["tasks"],
        device=given["device"],
        limit=given["limit"],
        settings=given["settings"],
        tokens=given["max_tokens"],
    )
    opener = Opener()
    try:
        facts = run(wish, aligned=given["aligned"], adapter=given["adapter"], opener=opener)
    finally:
        opener.close()
    if given["style"] == "json":
        click.echo(json.dumps([asdict(fact) for fact in facts], indent=2, allow_nan=False))
    else:
        _tell(facts)


def _tell(facts: "Sequence[InspectFact]") -> None:
    """Print one line per metric: aligned, then with the adapter."""
    half = len(facts) // 2
    for before, after in zip(facts[:half], facts[half:], strict=True):
        click.echo(f"{before.task}, {before.samples} samples")
        for name, value in before.metrics.items():
            new = after.metrics.get(name)
            told = "none" if new is None else f"{new:.4g}"
            click.echo(f"  {name}: aligned {value:.4g}, with the adapter {told}")
