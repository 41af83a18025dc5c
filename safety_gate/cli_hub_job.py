"""The command ``hub-job``: what runs inside a Job of the Hub."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from safety_gate.cli_bot_parts import (
    ACCOUNT,
    CACHE,
    JOBS_TOKEN,
    OPT_OUT,
    PUBLISH,
    READ_TOKEN,
    REPAIR,
    SAFETY,
    WATCH,
    eyes_for,
    holder,
    judged_by,
    publisher_for,
    standard_from,
)
from safety_gate.cli_parts import JUDGE_KEY, PLACE, STATUS

if TYPE_CHECKING:
    from safety_gate.bot.hub_judge import Standard
    from safety_gate.bot.job_order import JobOrder
    from safety_gate.jobs.facts import Stored
    from safety_gate.records import Report
    from safety_gate.sources.hub_names import HubPlace

GRAVEST: Final = {"passed": 0, "undecided": 3, "blocked": 1}  # in rising order


@click.command("hub-job", epilog=STATUS)
@click.option("--adapter", type=PLACE, help="Judge this commit.  [default: what the webhook names]")
@CACHE
@judged_by
@WATCH
@OPT_OUT
@ACCOUNT
@PUBLISH
@REPAIR
@SAFETY
@click.pass_context
def hub_job(ctx: click.Context, /, **given: Any) -> None:
    """Judge one event inside a Job of the Hub, which the Hub's own webhook has started.

    The event is in WEBHOOK_PAYLOAD. A worker with --executor jobs starts it with --adapter.
    """
    from safety_gate.bot.logs import log_to

    log_to(sys.stderr)
    if given["adapter"] is None and _is_source(os.environ):
        click.echo("No event: this Job only shows a webhook how to start others.")
        return
    publisher = publisher_for(given)  # first: it takes the token that may write out of our sight
    standard = _standard(given)
    if given["adapter"] is not None:
        ctx.exit(_judge_one(given["adapter"], standard))
    from safety_gate.bot.hub_judge import HubJudge
    from safety_gate.bot.one_event import event_from, judge_event
    from safety_gate.bot.payload import Watch

    judge = HubJudge(standard)
    watch = Watch(
        policy=judge.policy,
        watched=frozenset(given["watch"]),
        opted_out=frozenset(given["opt_out"]),
    )
    verdicts = judge_event(
        event_from(os.environ),
        watch,
        judge=judge,
        publisher=publisher,
        eyes=eyes_for(given["account"]),
        holder=holder(),
    )
    for stored in verdicts:
        _show(stored)
    if not verdicts:
        click.echo("Nothing was to be judged; the log says why.")
    words = [stored.word for stored in verdicts]
    ctx.exit(next((GRAVEST[word] for word in reversed(GRAVEST) if word in words), 0))


def _is_source(environ: Mapping[str, str]) -> bool:
    """Tell whether this is the Job that a webhook starts others like, and not one of them."""
    return "JOB_ID" in environ and not any(name.startswith("WEBHOOK_") for name in environ)


def _standard(given: Mapping[str, Any]) -> "Standard":
    """Return what adapters are held against; a policy that came along goes before."""
    from safety_gate.bot.job_order import POLICY, unpacked

    standard = standard_from(given)
    word = os.environ.get(POLICY, "")
    return dataclasses.replace(standard, policy=unpacked(word)) if word else standard


def _judge_one(place: "HubPlace", standard: "Standard") -> int:
    """Judge a commit and print the report: in a frame for the worker that waits for it."""
    from safety_gate.bot.hub_judge import judged_and_repaired
    from safety_gate.bot.job_frame import framed, second
    from safety_gate.bot.job_order import MARK
    from safety_gate.report.json_report import to_json
    from safety_gate.sources.hub_names import COMMIT, HubPlace

    pinned = isinstance(place, HubPlace) and COMMIT.fullmatch(place.revision or "")
    if not pinned:
        raise click.UsageError("--adapter needs a pinned commit: org/name@ and 40 hex digits.")
    found = judged_and_repaired(standard, place)
    after = found.repaired
    mark = os.environ.get(MARK, "")
    if not mark:
        for report in filter(None, (found.report, after)):
            _render(report)
        return found.report.verdict.exit_code
    lines = list(framed(to_json(found.report), mark))
    if standard.repair:
        lines += framed(to_json(after) if after else "null", second(mark))
    for line in lines:
        click.echo(line)
    return 0  # the Job did what it was asked; what it found is in the report


def _show(stored: "Stored") -> None:
    import json

    from safety_gate.action.report_reader import read_report

    click.echo(f"{stored.repo}@{stored.sha}: {stored.word}")
    for text in filter(None, (stored.report, stored.repaired)):
        _render(read_report(json.loads(text), where="database"))


def _render(report: "Report") -> None:
    from rich.console import Console

    from safety_gate.report.terminal import render_text

    render_text(report, Console(width=100))


def order_from(given: Mapping[str, Any], standard: "Standard") -> "JobOrder":
    """Return how Jobs are started; their token is taken out of the environment.

    Raises:
        click.UsageError: image or token are missing.
        BadOrder: something that a Job cannot be given.
    """
    from safety_gate.bot.job_order import JobOrder
    from safety_gate.sources.hub import BUDGET

    token = os.environ.pop(JOBS_TOKEN, "")
    if not given["image"]:
        raise click.UsageError("--executor jobs needs --image: our container image.")
    if not token:
        raise click.UsageError(f"--executor jobs needs a token that may start Jobs: {JOBS_TOKEN}.")
    passed_on = {name: os.environ.get(name, "") for name in (READ_TOKEN, JUDGE_KEY, BUDGET)}
    return JobOrder(
        standard=standard,
        image=given["image"],
        flavor=given["flavor"],
        namespace=given["namespace"],
        timeout_s=given["job_timeout"] * 60,
        token=token,
        secrets={name: value for name, value in passed_on.items() if value},
    )
