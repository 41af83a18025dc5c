"""The command ``repair``: parse, call, print, exit status."""

import dataclasses
import datetime
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from safety_gate.cli_parts import (
    FILE,
    PLACE,
    PRESETS,
    REPORT_FILE,
    STATUS,
    ask_from,
    asking,
    progress_bar,
)
from safety_gate.cli_repair_show import tell
from safety_gate.cli_reports import STYLES
from safety_gate.repair.forms import FORMS, Merge
from safety_gate.repair.guard import Guard
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    Project,
    SafeLora,
    SafeMerge,
    Scale,
    Unrevert,
)
from safety_gate.repair.plan import Auto, Choice, Order, Plan
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.selection import Below, Every, Flagged, Lowest, Selection
from safety_gate.repair.writing import Layout

Given = Mapping[str, Any]  # the options by name, as click parsed them

MERGE = ("weights", "merge_ratio", "form", "density", "majority_sign", "rank", "seed")
# Which options belong to which method; any other beside it is a misunderstanding.
OWN: Mapping[str, tuple[str, ...]] = {
    "safemerge": (*MERGE, "safety_adapter", "any_safety_base"),
    "safelora": (),
    "project": ("top", "energy"),
    "scale": ("factor",),
    "drop": (),
    "attenuate": ("strength",),
    "unrevert": ("keep",),
    "guard": ("strength", "lambda_", "mu"),
    "auto": ("safety_adapter", "any_safety_base"),
}
SELECTING = ("cos_threshold", "lowest", "select")
BY_COSINE = ("safemerge", "safelora")  # published with a threshold, which has no good default


class Weights(click.ParamType[tuple[float, float]]):
    """Two numbers: "0.8,0.2", or "[0.8, 0.2]" as the published command takes them."""

    name = "A,S"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Return (adapter, safety adapter)."""
        if isinstance(value, tuple):
            return value[0], value[1]
        parts = re.sub(r"[\[\]()\s]", "", str(value)).split(",")
        try:
            task, safety = (float(part) for part in parts)
        except ValueError:
            self.fail("give two numbers, such as 0.8,0.2", param, ctx)
        return task, safety


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Return one decorator for several options, so that they stand together in --help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


INPUTS = options(
    click.argument("adapter", type=PLACE),
    click.option(
        "--base", type=PLACE, help="Checkpoint before alignment.  [default: of the known pair]"
    ),
    click.option(
        "--aligned", type=PLACE, help="Checkpoint of the adapter.  [default: of the known pair]"
    ),
    click.option("--output", type=click.Path(path_type=Path), required=True, help="New folder."),
    click.option("--method", type=click.Choice([*OWN]), required=True, help="See docs/repair.md."),
)
SELECTION = options(
    click.option("--cos-threshold", type=float, help="Modules whose cosine is below this."),
    click.option("--lowest", type=int, help="This number of modules, of lowest cosine."),
    click.option(
        "--select",
        metavar="policy|all|RULE",
        help="Modules that a rule of the policy names, or all.  [default: policy; guard: all]",
    ),
)
MERGING = options(
    click.option("--safety-adapter", type=PLACE, help="LoRA adapter tuned on safety data."),
    click.option("--any-safety-base", is_flag=True, help="Also where it names another base."),
    click.option("--weights", type=Weights(), help="Adapter, safety adapter.  [default: 0.8,0.2]"),
    click.option("--merge-ratio", type=float, help="Weight of the safety adapter; the rest is 1."),
    click.option("--form", type=click.Choice(FORMS), default="cat", help="How to merge."),
    click.option("--density", type=float, help="Share of entries that ties, dare, ... keep."),
    click.option("--majority-sign", type=click.Choice(["total", "frequency"]), default="total"),
    click.option("--rank", type=int, help="Of forms that end with svd.  [default: the larger]"),
    click.option("--seed", type=int, default=0, show_default=True, help="Of dare."),
)
STRENGTHS = options(
    click.option("--factor", type=float, help="scale: the factor."),
    click.option(
        "--strength",
        type=float,
        help="attenuate: 0 leaves all, 9 a tenth of what is off. guard: how much refusals weigh.",
    ),
    click.option("--lambda", "lambda_", type=float, help="guard: how much the task weighs."),
    click.option("--mu", type=float, help="guard: how much a small change weighs."),
    click.option("--keep", type=float, default=0.0, help="unrevert: share that stays."),
    click.option("--top", type=int, help="project: number of directions."),
    click.option("--energy", type=float, help="project: share of the step's energy."),
)
STORING = options(
    click.option(
        "--dtype",
        type=click.Choice(["same", "float32", "bfloat16", "float16"]),
        default="same",
        show_default=True,
        help="Of changed modules.",
    ),
    click.option("--uniform-rank", is_flag=True, help="Pad all modules to one rank, with zeros."),
)
JUDGING = options(
    click.option("--policy", type=FILE, help="Policy file that decides."),
    click.option("--preset", type=click.Choice(PRESETS), help="Policy that comes along."),
    click.option(
        "--format",
        "style",
        type=click.Choice(STYLES),
        default="text",
        show_default=True,
    ),
    click.option("--report", type=REPORT_FILE, help="Report file."),
    click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        help="Keep bytes of checkpoints on the Hub in this folder.  [default: nothing on disk]",
    ),
    click.option("--hash-checkpoints", is_flag=True, help="sha256 of whole checkpoint files."),
    click.option("--threads", type=click.IntRange(1, 256), help="[default: all cores]"),
)


@click.command(epilog=STATUS)
@INPUTS
@SELECTION
@MERGING
@STRENGTHS
@STORING
@JUDGING
@asking
@click.pass_context
def repair(ctx: click.Context, /, **given: Any) -> None:
    """Write a repaired copy of ADAPTER, a folder or org/name@revision, and judge it from its files.

    The exit status is that of the repaired adapter; 1 where no repair passes (--method auto); 3
    where an adapter that was blocked for its figures passes now and the model was not asked.
    """
    check_options(ctx, given)
    if given["policy"] and given["preset"]:
        raise click.UsageError("--policy and --preset cannot be used together.")
    try:
        order = order_from(given)
    except CannotRepair as error:
        raise click.UsageError(f"{error}. {error.hint}") from error
    wish = ask_from(given)
    from safety_gate import gate
    from safety_gate.repairing import repair_and_judge

    request = gate.Request(
        adapter=given["adapter"],
        base=given["base"],
        aligned=given["aligned"],
        cache=given["cache"],
        policy=given["policy"],
        preset=given["preset"] or "default",
        hash_checkpoints=given["hash_checkpoints"],
        workers=given["threads"] or len(os.sched_getaffinity(0)),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=wish,
    )
    with progress_bar() as progress:
        repaired = repair_and_judge(request, order, progress)
    tell(repaired, given["style"], given["report"])
    ctx.exit(repaired.exit_code)


def check_options(ctx: click.Context, given: Given) -> None:
    """Refuse options that the method would not hear."""
    method = given["method"]
    own = {name for names in OWN.values() for name in names}
    for name in sorted(own - set(OWN[method])):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{_flag(name)} means nothing to --method {method}.")
    chosen = [name for name in SELECTING if given[name] is not None]
    if len(chosen) > 1 or (chosen and method == "auto"):
        raise click.UsageError(f"{' and '.join(map(_flag, chosen))} cannot be used here together.")
    if not chosen and method in BY_COSINE:
        raise click.UsageError(
            f"--method {method} needs --cos-threshold, --lowest or --select: what a cosine means"
            " depends on the model, so there is no threshold that fits all."
        )


def _flag(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def order_from(given: Given) -> Order:
    """Return the order that the options make.

    Raises:
        CannotRepair: a value is out of its range.
    """
    choice: Choice = Auto()
    if given["method"] != "auto":
        choice = Plan(method=_method(given), selection=_selection(given))
    return Order(
        choice=choice,
        output=given["output"],
        safety=given["safety_adapter"],
        any_safety_base=given["any_safety_base"],
        layout=Layout(dtype=given["dtype"], uniform_rank=given["uniform_rank"]),
    )


def _method(given: Given) -> Method:
    match given["method"]:
        case "safemerge":
            return SafeMerge(merge=_merge(given))
        case "safelora":
            return SafeLora()
        case "project":
            return Project(top=given["top"], energy=given["energy"])
        case "scale":
            return Scale(factor=_needed(given, "factor"))
        case "drop":
            return Drop()
        case "attenuate":
            return Attenuate(strength=_needed(given, "strength"))
        case "unrevert":
            return Unrevert(keep=given["keep"])
        case "guard":
            return _guard(given)
        case name:
            raise AssertionError(f"unknown method {name}")


def _guard(given: Given) -> Guard:
    """Return guard with the weights that were given."""
    names = {"strength": "strength", "lambda_": "task", "mu": "ridge"}
    return Guard(**{own: given[name] for name, own in names.items() if given[name] is not None})


def _needed(given: Given, name: str) -> float:
    if given[name] is None:
        raise click.UsageError(f"--method {given['method']} needs {_flag(name)}.")
    return float(given[name])


def _merge(given: Given) -> Merge:
    """Return the merge settings; two ways to say the weights must say the same."""
    weights, ratio = given["weights"], given["merge_ratio"]
    if ratio is not None:
        meant = (1.0 - ratio, ratio)
        if (
            weights is not None
            and max(abs(w - m) for w, m in zip(weights, meant, strict=True)) > 1e-9
        ):
            raise click.UsageError(
                f"--merge-ratio {ratio:g} means the weights {meant[0]:g},{ratio:g}, and --weights"
                " says otherwise: give one of them. (The published command lets the ratio win.)"
            )
        weights = weights or meant
    return Merge(
        form=given["form"],
        weights=weights or (0.8, 0.2),
        density=given["density"],
        majority=given["majority_sign"],
        rank=given["rank"],
        seed=given["seed"],
    )


def _selection(given: Given) -> Selection:
    if given["cos_threshold"] is not None:
        # SafeMERGE compares with <, Safe LoRA with <=: each as it was published.
        return Below(tau=given["cos_threshold"], inclusive=given["method"] == "safelora")
    if given["lowest"] is not None:
        return Lowest(number=given["lowest"])
    match given["select"]:
        case "all":
            return Every()
        case None if given["method"] == "guard":  # its inputs are those of a model wholly guarded
            return Every()
        case None | "policy":
            return Flagged()
        case rule:
            return Flagged(rule=rule)


@click.command(add_help_option=False)
@click.argument("method", type=click.Choice([*OWN]))
@SELECTION
@MERGING
@STRENGTHS
@STORING
def wished(**_: Any) -> None:
    """Parse what stands after ``check --repair``; never run."""


def order_of(text: str, output: Path) -> Order:
    """Return the order of ``check --repair "METHOD OPTIONS"``: only what does not pass is repaired.

    Raises:
        click.UsageError: the command ``repair`` would not take these words.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"--repair {text!r}: {error}.") from error
    context = wished.make_context("--repair", words)
    given = {**context.params, "output": output}
    check_options(context, given)
    try:
        return dataclasses.replace(order_from(given), only_if_needed=True)
    except CannotRepair as error:
        raise click.UsageError(f"{error}. {error.hint}") from error
