"""What the commands of the bot share: options, and what they stand for."""

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from safety_gate.cli_parts import FILE, PLACE, PRESETS, ask_from, asking

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from safety_gate.bot.hub_eyes import HubEyes
    from safety_gate.bot.hub_judge import Standard
    from safety_gate.bot.payload import Watch
    from safety_gate.jobs.facts import Rules
    from safety_gate.jobs.journal import Publisher
    from safety_gate.jobs.store import JobStore
    from safety_gate.policy.file import PolicyText

MINUTE: Final = 60.0
DAY: Final = 86_400.0
READ_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of a variable
JOBS_TOKEN: Final = "SAFETY_GATE_JOBS_TOKEN"  # noqa: S105 - may start Jobs of the Hub
WRITE_TOKEN: Final = "SAFETY_GATE_HUB_WRITE_TOKEN"  # noqa: S105 - no judge ever sees it

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]

DATABASE: Option[Any] = click.option(
    "--database",
    envvar="SAFETY_GATE_DATABASE",
    default="sqlite:///safety-gate.db",
    show_default=True,
    help="Where jobs and verdicts are kept: sqlite:///FILE or postgresql://...",
)
POLICY: Option[Any] = click.option(
    "--policy", type=FILE, envvar="SAFETY_GATE_POLICY", help="Policy file that decides."
)
PRESET: Option[Any] = click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="default",
    show_default=True,
    envvar="SAFETY_GATE_PRESET",
)
WATCH: Option[Any] = click.option(
    "--watch",
    multiple=True,
    metavar="OWNER|OWNER/NAME",
    envvar="SAFETY_GATE_WATCH",
    help="Judge these alone, and sweep them.  [default: all that the webhook sends]",
)
OPT_OUT: Option[Any] = click.option(
    "--opt-out",
    multiple=True,
    metavar="OWNER|OWNER/NAME",
    envvar="SAFETY_GATE_OPT_OUT",
    help="Never judge these.",
)
LEASE: Option[Any] = click.option(
    "--lease",
    type=click.FloatRange(1, 86400),
    default=60.0,
    show_default=True,
    help="Seconds after which a silent worker has lost its job; the same for all processes.",
)
PUBLISH: Option[Any] = click.option(
    "--publish",
    is_flag=True,
    help=f"Tell verdicts on the Hub, with the token in {WRITE_TOKEN}.",
)
REPAIR: Option[Any] = click.option(
    "--repair",
    is_flag=True,
    help="Repair what is blocked as far as the policy asks, and show before and after.",
)
SAFETY: Option[Any] = click.option(
    "--safety", type=PLACE, help="Safety adapter, for the repairs that need one."
)
ACCOUNT: Option[Any] = click.option(
    "--account",
    default="",
    envvar="SAFETY_GATE_ACCOUNT",
    help="The Hub account that we publish as.",
)


def cache_option(without: str) -> Option[Any]:
    """Return the option ``--cache``; ``without`` says what happens where it is not given."""
    return click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="SAFETY_GATE_CACHE",
        help=f"Keep bytes of checkpoints on the Hub in this folder.  [default: {without}]",
    )


CACHE = cache_option("nothing on disk")
_JUDGED_BY = (
    POLICY,
    PRESET,
    click.option(
        "--base",
        type=PLACE,
        envvar="SAFETY_GATE_BASE",
        help="Checkpoint before alignment.  [default: of the known pair]",
    ),
    click.option(
        "--aligned",
        type=PLACE,
        envvar="SAFETY_GATE_ALIGNED",
        help="Checkpoint that the adapters were trained on.  [default: of the known pair]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 256),
        help="Modules measured at the same time; the report is the same.  [default: all cores]",
    ),
    asking,
)


def judged_by(command: F) -> F:
    """Give a command the options that say what adapters are held against."""
    for option in reversed(_JUDGED_BY):
        command = option(command)
    return command


def policy_text(given: Mapping[str, Any]) -> "PolicyText":
    """Return the bytes of the policy that the options name.

    Raises:
        BadPolicy: it cannot be followed.
    """
    from importlib import resources

    from safety_gate.policy.file import PolicyText, load_policy, load_policy_file

    if given["policy"] is None:
        name = given["preset"]
        file = resources.files("safety_gate").joinpath("policies", f"{name}.yml")
        return PolicyText(data=file.read_bytes(), origin=f"preset {name}")
    load_policy_file(given["policy"])  # bounds its size
    text = PolicyText(data=given["policy"].read_bytes(), origin=str(given["policy"]))
    load_policy(text.data, text.origin)
    return text


def standard_from(given: Mapping[str, Any]) -> "Standard":
    """Return what adapters are held against.

    Raises:
        BadPolicy: the policy cannot be followed.
        click.UsageError: some options mean nothing together.
    """
    from safety_gate.bot.hub_judge import Standard

    if given.get("safety") and not given["repair"]:
        raise click.UsageError("--safety needs --repair.")
    return Standard(
        policy=policy_text(given),
        base=given["base"],
        aligned=given["aligned"],
        cache=given["cache"],
        threads=given["threads"] or len(os.sched_getaffinity(0)),
        ask=ask_from(given),
        repair=given.get("repair", False),
        safety=given.get("safety"),
    )


def watch_from(given: Mapping[str, Any]) -> "Watch":
    """Return whose adapters are judged, and by which policy.

    Raises:
        BadPolicy: it cannot be followed.
    """
    from safety_gate.bot.payload import Watch
    from safety_gate.policy.file import load_policy

    text = policy_text(given)
    return Watch(
        policy=load_policy(text.data, text.origin).fact.sha256,
        watched=frozenset(given["watch"]),
        opted_out=frozenset(given["opt_out"]),
    )


def store_at(database: str, rules: "Rules") -> "JobStore":
    """Open the database.

    Raises:
        BadDatabase: the URL names none.
        StoreDown: it cannot be opened.
    """
    from safety_gate.jobs.location import open_store

    return open_store(database, rules)


def reading_api() -> "HfApi":
    """Return the Hub's client with the token that can read, or with none."""
    return api_with(os.environ.get(READ_TOKEN, ""))


def api_with(token: str) -> "HfApi":
    """Return the Hub's client with a token; empty: with none."""
    from huggingface_hub import HfApi

    from safety_gate import __version__

    return HfApi(token=token or False, library_name="safety-gate", library_version=__version__)


def eyes_for(account: str, watch: tuple[str, ...] = ()) -> "HubEyes":
    """Return what looks at the Hub."""
    from safety_gate.bot.hub_eyes import HubEyes

    return HubEyes(reading_api(), account=account, watch=watch)


def publisher_for(given: Mapping[str, Any]) -> "Publisher":
    """Return what tells verdicts; its token is taken out of the environment.

    Raises:
        click.UsageError: publishing is wanted, and account or token are missing.
    """
    from safety_gate.jobs.journal import Silent

    token = os.environ.pop(WRITE_TOKEN, "")
    if not given["publish"]:
        return Silent()
    if not given["account"]:
        raise click.UsageError("--publish needs --account: by it our own commits are known.")
    if not token:
        raise click.UsageError(f"--publish needs a token that may write, in {WRITE_TOKEN}.")
    import json

    from safety_gate.action.report_reader import read_report
    from safety_gate.bot.hub_steps import HubSteps
    from safety_gate.publish.hub import connect

    return HubSteps(connect(token), lambda text: read_report(json.loads(text), where="database"))


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
