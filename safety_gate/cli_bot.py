"""The commands ``serve`` and ``worker``; registered lazily, so that --help stays light."""

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from safety_gate.cli_bot_parts import (
    ACCOUNT,
    CACHE,
    DATABASE,
    DAY,
    LEASE,
    MINUTE,
    OPT_OUT,
    POLICY,
    PRESET,
    PUBLISH,
    REPAIR,
    SAFETY,
    WATCH,
    eyes_for,
    holder,
    judged_by,
    publisher_for,
    standard_from,
    stopped_by_signals,
    store_at,
    watch_from,
)

if TYPE_CHECKING:
    from safety_gate.bot.payload import Watch
    from safety_gate.jobs.store import JobStore
    from safety_gate.worker.judging import Judge
    from safety_gate.worker.loop import Hands, Limits


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@DATABASE
@POLICY
@PRESET
@WATCH
@OPT_OUT
@LEASE
@click.option(
    "--sweep",
    type=click.FloatRange(0, 1440),
    default=10.0,
    show_default=True,
    help="Minutes between looks at all heads of what is watched; 0: never.",
)
@click.option(
    "--keep-reports",
    type=click.FloatRange(1, 36_500),
    help="Days after which verdicts that a newer one replaced are forgotten.  [default: never]",
)
@click.option(
    "--public-page",
    is_flag=True,
    help="Show the status page to everyone, though --host is not loopback and no"
    " SAFETY_GATE_PAGE_TOKEN is set: names of private repositories may stand there.",
)
def serve(**given: Any) -> None:
    """Take in webhooks of the Hub, and show what came of them.

    The secret of the webhook is in SAFETY_GATE_WEBHOOK_SECRET. The status page asks for the token
    in SAFETY_GATE_PAGE_TOKEN; without one it is shown on loopback only.
    """
    from safety_gate.bot.app import make_app
    from safety_gate.bot.logs import log_to
    from safety_gate.bot.secret import Secrets
    from safety_gate.bot.server import serve as serve_with
    from safety_gate.bot.server import server_for
    from safety_gate.jobs.facts import Rules
    from safety_gate.page.access import access_for
    from safety_gate.page.routes import add_page

    log_to(sys.stderr)
    secrets = Secrets.read(os.environ)  # first: without a secret nothing is opened
    access = access_for(os.environ, host=given["host"], public=given["public_page"])
    watching = watch_from(given)
    store = store_at(given["database"], Rules(lease_s=given["lease"]))
    stop = threading.Event()
    sweeper = _sweeper(store, watching, given, stop)
    try:
        app = make_app(store, watching, secrets)
        add_page(app, store, watching.policy, access)
        serve_with(server_for(app, host=given["host"], port=given["port"]), stop, [])
    finally:
        stop.set()
        if sweeper is not None:
            sweeper.join(timeout=MINUTE)
        store.close_store()


def _sweeper(
    store: "JobStore", watch: "Watch", given: dict[str, Any], stop: threading.Event
) -> threading.Thread | None:
    """Start the sweep beside the door; both share the store."""
    from safety_gate.bot.sweep import Sweep

    keep = given["keep_reports"]
    watched = tuple(sorted(watch.watched)) if given["sweep"] else ()
    if not watched and keep is None:
        return None
    reports_s = keep * DAY if keep is not None else None
    sweep = Sweep(store, eyes_for("", watched), watch, reports_s=reports_s)
    every_s = (given["sweep"] or 60.0) * MINUTE

    def run() -> None:
        try:
            sweep.run(stop, every_s=every_s)
        finally:
            if not stop.is_set():  # a bug: end the process, so that its supervisor notices
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run, name="sweep", daemon=True)
    thread.start()
    return thread


@click.command()
@DATABASE
@LEASE
@CACHE
@judged_by
@ACCOUNT
@PUBLISH
@REPAIR
@SAFETY
@click.option("--once", is_flag=True, help="Work off what is queued now, then end.")
@click.option(
    "--executor",
    type=click.Choice(["here", "jobs"]),
    default="here",
    show_default=True,
    help="Judge in this process, or each adapter in a Job of the Hub.",
)
@click.option("--image", default="", help="Container image of the Jobs: this version of ours.")
@click.option("--flavor", default="cpu-upgrade", show_default=True, help="Hardware of the Jobs.")
@click.option("--namespace", default="", help="Who pays for the Jobs.  [default: the token's user]")
@click.option(
    "--job-timeout",
    type=click.IntRange(1, 1440),
    default=60,
    show_default=True,
    help="Minutes that a Job may run.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Jobs of the Hub at the same time.",
)
def worker(**given: Any) -> None:
    """Judge what was queued; any number of workers may use one database."""
    from safety_gate.bot.logs import log_to
    from safety_gate.jobs.facts import Rules
    from safety_gate.worker.loop import Hands, Limits

    log_to(sys.stderr)
    publisher = publisher_for(given)
    judge = _judge(given)
    store = store_at(given["database"], Rules(lease_s=given["lease"]))
    eyes = eyes_for(given["account"])
    hands = Hands(store=store, judge=judge, publisher=publisher, eyes=eyes)
    minutes = 60 + (given["job_timeout"] if given["executor"] == "jobs" else 0)
    try:
        _work(hands, Limits(job_s=minutes * MINUTE), given)
    finally:
        store.close_store()


def _judge(given: dict[str, Any]) -> "Judge":
    """Return who judges.

    Raises:
        click.UsageError: options that mean nothing together.
    """
    from safety_gate.bot.hub_judge import HubJudge

    standard = standard_from(given)
    if given["executor"] == "here":
        if given["parallel"] > 1 or given["image"]:
            raise click.UsageError("--parallel and --image need --executor jobs.")
        return HubJudge(standard)
    from safety_gate.bot.job_judge import JobJudge
    from safety_gate.cli_hub_job import order_from

    return JobJudge(order_from(given, standard))


def _work(hands: "Hands", limits: "Limits", given: dict[str, Any]) -> None:
    """Work until told to stop, or until the queue is empty."""
    from safety_gate.worker.loop import Worker

    team = [Worker(hands, holder=holder(), limits=limits) for _ in range(given["parallel"])]
    if given["once"]:
        while team[0].once():
            pass
        return
    stop = stopped_by_signals()
    threads = [threading.Thread(target=one.run, args=(stop,), daemon=True) for one in team[1:]]
    for thread in threads:
        thread.start()
    team[0].run(stop)
    for thread in threads:
        thread.join()
