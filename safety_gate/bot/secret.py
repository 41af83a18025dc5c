"""The webhook secret: the Hub sends it verbatim, without signature, time or delivery id."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from safety_gate.errors import SourceError

SECRET: Final = "SAFETY_GATE_WEBHOOK_SECRET"  # noqa: S105 - the name, not the secret
OLD_SECRET: Final = "SAFETY_GATE_WEBHOOK_SECRET_OLD"  # noqa: S105
SHORTEST: Final = 16  # characters; the Hub's page makes none, so people type what they like


class BadSecret(SourceError):
    """There is no secret, or one that anyone could guess."""

    rule = "secret-bad"
    exit_code = 2  # wrong usage: nothing was begun


@dataclass(frozen=True, slots=True)
class Secrets:
    """One secret, or two while it is rotated."""

    _digests: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Secrets":
        """Take the secret, and the one before it, from the environment.

        Raises:
            BadSecret: there is none, or it is too short or not ASCII. No secret, no start.
        """
        given = [environ.get(name, "") for name in (SECRET, OLD_SECRET)]
        check_secret(SECRET, given[0])
        if given[1]:
            check_secret(OLD_SECRET, given[1])
        return cls(tuple(_digest(text.encode()) for text in given if text))

    def accept(self, headers: Sequence[bytes]) -> bool:
        """Tell whether exactly one header was sent, with one of the secrets.

        The time that this takes depends on neither the secret nor its length: digests are
        compared, all of them, with ``hmac.compare_digest``.
        """
        sent = _digest(headers[0] if headers else b"")
        matches = [hmac.compare_digest(sent, known) for known in self._digests]
        return len(headers) == 1 and any(matches)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def check_secret(name: str, text: str) -> None:
    """Refuse a secret that anyone could guess, or that a header cannot carry.

    Raises:
        BadSecret: naming the variable, never its value.
    """
    if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or text != text.strip():
        raise BadSecret(
            "this secret is not set" if not text else "this secret is not usable",
            where=name,
            expected=f"at least {SHORTEST} printable ASCII characters",
            hint=f"Set {name}: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            " makes one.",
        )
