"""The commands ``webhook create``, ``list`` and ``delete``: the Hub's side of the bot."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from safety_gate.cli_bot_parts import JOBS_TOKEN, READ_TOKEN, WRITE_TOKEN, api_with
from safety_gate.cli_parts import JUDGE_KEY

if TYPE_CHECKING:
    from huggingface_hub import HfApi, WebhookInfo, WebhookWatchedItem

ADMIN_TOKEN: Final = "SAFETY_GATE_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
KINDS: Final = ("user", "org", "model")
TOKEN_HINT: Final = (
    f"Check the token in {ADMIN_TOKEN}: it has to be valid, and may write webhooks (and start Jobs,"
    " for --image)."
)
# What a Job that the webhook starts may need; the source Job's secrets are not copied by the Hub.
PASSED_ON: Final = (READ_TOKEN, WRITE_TOKEN, JUDGE_KEY)

T = TypeVar("T")


@click.group()
def webhook() -> None:
    """Set up the webhook on the Hub, with the token in SAFETY_GATE_ADMIN_TOKEN."""


@webhook.command()
@click.option("--url", help="Where `safety-gate serve` listens: https://.../webhook")
@click.option("--job", help="Id of a Job to start instead: one that ran `safety-gate hub-job`.")
@click.option("--image", help="Container image: makes that Job first.")
@click.option("--flavor", default="cpu-upgrade", show_default=True, help="Hardware of that Job.")
@click.option(
    "--argument", "arguments", multiple=True, help="Further argument of hub-job, such as --publish."
)
@click.option(
    "--watch",
    multiple=True,
    required=True,
    metavar="KIND:NAME",
    help="user:NAME, org:NAME or model:OWNER/NAME.",
)
def create(
    url: str | None,
    job: str | None,
    image: str | None,
    flavor: str,
    arguments: tuple[str, ...],
    watch: tuple[str, ...],
) -> None:
    """Make a webhook: to a server, or to a Job for each event.

    Its secret is that in SAFETY_GATE_WEBHOOK_SECRET. Jobs get HF_TOKEN, and where they are set
    SAFETY_GATE_HUB_WRITE_TOKEN and SAFETY_GATE_JUDGE_KEY, as secrets.
    """
    from safety_gate.bot.secret import SECRET, Secrets

    if sum(map(bool, (url, job, image))) != 1:
        raise click.UsageError("Give one of --url, --job and --image.")
    if url and not url.startswith("https://"):
        raise click.UsageError("--url has to be https: the Hub sends the secret as it is.")
    watched: list[dict[str, str] | WebhookWatchedItem] = [_watched(one) for one in watch]
    Secrets.read(os.environ)
    api = _api()
    if image:
        job = _asked(lambda: _source(api, image, flavor, arguments), "the source Job")
    given = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    made = _asked(
        lambda: api.create_webhook(
            url=url,
            job_id=job,
            watched=watched,
            domains=["repo"],
            secret=os.environ[SECRET],
            secrets=given if job else None,
        ),
        "the webhook",
    )
    click.echo(_line(made))


def _source(api: "HfApi", image: str, flavor: str, arguments: tuple[str, ...]) -> str:
    """Run the Job that others are started like; it ends at once, for it has no event."""
    from safety_gate.bot.job_order import PROGRAM

    command = [PROGRAM, "hub-job", *arguments]
    return api.run_job(image=image, command=command, flavor=flavor, timeout=3600).id


@webhook.command("list")
def list_() -> None:
    """Show the webhooks of the account; never a secret."""
    for one in _asked(_api().list_webhooks, "the webhooks"):
        click.echo(_line(one))


@webhook.command()
@click.argument("webhook_id")
def delete(webhook_id: str) -> None:
    """Delete a webhook by its id."""
    if not (webhook_id.isascii() and webhook_id.isalnum()):
        raise click.UsageError("An id is letters and digits; `webhook list` shows it.")
    api = _api()

    def gone() -> bool:
        api.delete_webhook(webhook_id)
        return True

    _asked(gone, f"webhook {webhook_id}")
    click.echo(f"deleted {webhook_id}")


def _api() -> "HfApi":
    token = os.environ.get(ADMIN_TOKEN) or os.environ.get(JOBS_TOKEN, "")
    if not token:
        raise click.UsageError(f"Managing webhooks needs a token that may write: {ADMIN_TOKEN}.")
    return api_with(token)


def _watched(text: str) -> dict[str, str]:
    kind, _, name = text.partition(":")
    parts = name.split("/")
    if kind not in KINDS or not all(parts) or len(parts) != (2 if kind == "model" else 1):
        raise click.UsageError(f"--watch {text!r}: write user:NAME, org:NAME or model:OWNER/NAME.")
    return {"type": kind, "name": name}


def _asked(step: Callable[[], T], where: str) -> T:
    """Ask the Hub.

    Raises:
        GateError: it does not answer, or refuses.
    """
    from safety_gate.bot.hub_eyes import asked
    from safety_gate.errors import SourceError
    from safety_gate.sources.hub_errors import HubUnauthorised

    try:
        found: Any = asked(step, where)
    except HubUnauthorised as error:  # its hint is about the token that reads
        raise HubUnauthorised(error.what, where=where, got=error.got, hint=TOKEN_HINT) from None
    if found is None:
        raise SourceError(
            "the Hub knows no such thing", where=where, hint="`webhook list` shows what there is."
        )
    told: T = found
    return told


def _line(one: "WebhookInfo") -> str:
    """Return a webhook in one line: id, state, where it leads, and what it watches."""
    to = one.url or "a Job of the Hub"
    watched = " ".join(f"{item.type}:{item.name}" for item in one.watched)
    return f"{one.id}  {'disabled' if one.disabled else 'enabled'}  {to}  {watched}"
