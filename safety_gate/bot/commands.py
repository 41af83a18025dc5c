"""The commands ``serve`` and ``worker``; registered lazily, so that --help stays light."""

import datetime
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from safety_gate.bot.hub_eyes import HubEyes
    from safety_gate.bot.payload import Watch
    from safety_gate.jobs.journal import Publisher
    from safety_gate.jobs.store import JobStore
    from safety_gate.worker.judging import Judge

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PRESETS = ("default", "paper")
MINUTE: Final = 60.0
READ_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of a variable
WRITE_TOKEN: Final = "SAFETY_GATE_HUB_WRITE_TOKEN"  # noqa: S105 - no judge ever sees it

Option = Callable[[Callable[..., None]], Callable[..., None]]

DATABASE: Option = click.option(
    "--database",
    envvar="SAFETY_GATE_DATABASE",
    default="sqlite:///safety-gate.db",
    show_default=True,
    help="Where jobs and verdicts are kept: sqlite:///FILE or postgresql://...",
)
POLICY: Option = click.option("--policy", type=FILE, help="Policy file that decides.")
PRESET: Option = click.option(
    "--preset", type=click.Choice(PRESETS), default="default", show_default=True
)
WATCH: Option = click.option(
    "--watch",
    multiple=True,
    metavar="OWNER|OWNER/NAME",
    envvar="SAFETY_GATE_WATCH",
    help="Judge these alone, and sweep them.  [default: all that the webhook sends]",
)
OPT_OUT: Option = click.option(
    "--opt-out",
    multiple=True,
    metavar="OWNER|OWNER/NAME",
    envvar="SAFETY_GATE_OPT_OUT",
    help="Never judge these.",
)
LEASE: Option = click.option(
    "--lease",
    type=click.FloatRange(1, 86400),
    default=60.0,
    show_default=True,
    help="Seconds after which a silent worker has lost its job; the same for all processes.",
)


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
def serve(  # noqa: PLR0913
    host: str,
    port: int,
    database: str,
    policy: Path | None,
    preset: str,
    watch: tuple[str, ...],
    opt_out: tuple[str, ...],
    lease: float,
    sweep: float,
) -> None:
    """Take in webhooks of the Hub; the secret is in SAFETY_GATE_WEBHOOK_SECRET."""
    from safety_gate.bot.app import make_app
    from safety_gate.bot.logs import log_to
    from safety_gate.bot.secret import Secrets
    from safety_gate.bot.server import serve as serve_with
    from safety_gate.bot.server import server_for

    log_to(sys.stderr)
    secrets = Secrets.read(os.environ)  # first: without a secret nothing is opened
    watching = _watch(policy, preset, watch, opt_out)
    store = _store(database, lease)
    stop = threading.Event()
    sweeper = _sweeper(store, watching, sweep * MINUTE, stop) if sweep and watch else None
    try:
        server = server_for(make_app(store, watching, secrets), host=host, port=port)
        serve_with(server, stop, [])
    finally:
        stop.set()
        if sweeper is not None:
            sweeper.join(timeout=MINUTE)
        store.close_store()


@click.command()
@DATABASE
@POLICY
@PRESET
@LEASE
@click.option("--base", type=FOLDER, required=True, help="Checkpoint before alignment.")
@click.option(
    "--aligned", type=FOLDER, required=True, help="Checkpoint that the adapters were trained on."
)
@click.option("--account", default="", help="The Hub account that we publish as.")
@click.option(
    "--publish",
    is_flag=True,
    help=f"Tell verdicts on the Hub, with the token in {WRITE_TOKEN}.",
)
@click.option("--once", is_flag=True, help="Work off what is queued now, then end.")
def worker(  # noqa: PLR0913
    database: str,
    policy: Path | None,
    preset: str,
    lease: float,
    base: Path,
    aligned: Path,
    account: str,
    publish: bool,
    once: bool,
) -> None:
    """Judge what was queued; any number of workers may use one database."""
    from safety_gate.bot.logs import log_to
    from safety_gate.worker.loop import Hands, Worker

    log_to(sys.stderr)
    if publish and not account:
        raise click.UsageError("--publish needs --account: by it our own commits are known.")
    publisher = _publisher(publish)
    judge = _judge(_Gate(base=base, aligned=aligned, policy=policy, preset=preset))
    store = _store(database, lease)
    hands = Hands(store=store, judge=judge, publisher=publisher, eyes=_eyes((), account))
    try:
        hand = Worker(hands, holder=holder())
        if once:
            while hand.once():
                pass
        else:
            hand.run(stopped_by_signals())
    finally:
        store.close_store()


def holder() -> str:
    """Return a name that no other worker has, and that tells a reader where it runs."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def stopped_by_signals() -> threading.Event:
    """Return an event that the first SIGTERM or SIGINT sets; the second one ends us at once.

    The first lets the job in hand come to its end; the second gives it back to the store.
    """
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    return stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gate:
    """The gate as one worker uses it for every adapter."""

    base: Path
    aligned: Path
    policy: Path | None
    preset: str


def _policy_digest(policy: Path | None, preset: str) -> str:
    from safety_gate.policy.file import load_policy_file
    from safety_gate.policy.presets import load_preset

    return (load_policy_file(policy) if policy else load_preset(preset)).fact.sha256


def _judge(chosen: _Gate) -> "Judge":
    from safety_gate import gate
    from safety_gate.bot.hub_judge import HubJudge
    from safety_gate.records import Report
    from safety_gate.sources.hub_client import HubClient

    def judge_folder(folder: Path) -> Report:
        return gate.judge(
            gate.Request(
                adapter=folder,
                base=chosen.base,
                aligned=chosen.aligned,
                policy=chosen.policy,
                preset=chosen.preset,
                today=datetime.datetime.now(tz=datetime.UTC).date(),
            )
        )

    digest = _policy_digest(chosen.policy, chosen.preset)
    return HubJudge(HubClient(), judge_folder, policy=digest)


def _publisher(publish: bool) -> "Publisher":
    """Return what tells verdicts; its token is taken out of the environment."""
    from safety_gate.jobs.journal import Silent

    token = os.environ.pop(WRITE_TOKEN, "")
    if not publish:
        return Silent()
    if not token:
        raise click.UsageError(f"--publish needs a token that may write, in {WRITE_TOKEN}.")
    import json

    from safety_gate.action.report_reader import read_report
    from safety_gate.bot.hub_steps import HubSteps
    from safety_gate.publish.hub import connect

    return HubSteps(connect(token), lambda text: read_report(json.loads(text), where="database"))


def _watch(
    policy: Path | None, preset: str, watch: tuple[str, ...], opt_out: tuple[str, ...]
) -> "Watch":
    from safety_gate.bot.payload import Watch

    return Watch(
        policy=_policy_digest(policy, preset),
        watched=frozenset(watch),
        opted_out=frozenset(opt_out),
    )


def _store(database: str, lease: float) -> "JobStore":
    from safety_gate.jobs.facts import Rules
    from safety_gate.jobs.location import open_store

    return open_store(database, Rules(lease_s=lease))


def _eyes(watch: tuple[str, ...], account: str) -> "HubEyes":
    from huggingface_hub import HfApi

    from safety_gate import __version__
    from safety_gate.bot.hub_eyes import HubEyes

    api = HfApi(
        token=os.environ.get(READ_TOKEN) or False,
        library_name="safety-gate",
        library_version=__version__,
    )
    return HubEyes(api, account=account, watch=watch)


def _sweeper(
    store: "JobStore", watch: "Watch", every_s: float, stop: threading.Event
) -> threading.Thread:
    """Start the sweep beside the door; both share the store."""
    from safety_gate.bot.sweep import Sweep

    eyes = _eyes(tuple(sorted(watch.watched)), "")
    sweep = Sweep(store, eyes, watch)

    def run() -> None:
        try:
            sweep.run(stop, every_s=every_s)
        finally:
            if not stop.is_set():  # a bug: end the process, so that its supervisor notices
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run, name="sweep", daemon=True)
    thread.start()
    return thread
