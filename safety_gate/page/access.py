"""Who may see the page: everyone, who knows a token, or nobody."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from safety_gate.bot.secret import check_secret

TOKEN: Final = "SAFETY_GATE_PAGE_TOKEN"  # noqa: S105 - the name, not the token
CHALLENGE: Final = 'Basic realm="Safety Gate", charset="UTF-8"'


@dataclass(frozen=True, slots=True)
class Access:
    """Decides over one request; ``shown`` False: there is no page."""

    shown: bool
    _digest: bytes | None = field(default=None, repr=False)  # of the token; None: no token

    @property
    def is_locked(self) -> bool:
        """Tell whether a token is asked for."""
        return self._digest is not None

    def allows(self, authorization: str) -> bool:
        """Tell whether this header opens the page.

        A browser sends the token as the password of any user (Basic), a program as Bearer. Digests
        are compared, so that the time depends on neither the token nor its length.
        """
        if self._digest is None:
            return self.shown
        return hmac.compare_digest(_digest(_sent(authorization)), self._digest)


def access_for(environ: Mapping[str, str], *, host: str, public: bool) -> Access:
    """Return who may see the page of a server.

    Without a token it is shown on loopback only, unless ``public`` says otherwise: names of
    private repositories stand there.

    Raises:
        BadSecret: the token is too short or not ASCII.
    """
    token = environ.get(TOKEN, "")
    if token:
        check_secret(TOKEN, token)
        return Access(True, _digest(token.encode()))
    return Access(public or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _sent(authorization: str) -> bytes:
    """Return the token of a header; empty where there is none."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip().encode()
        case "basic":
            try:
                pair = base64.b64decode(rest.strip(), validate=True)
            except (binascii.Error, ValueError):
                return b""
            return pair.partition(b":")[2]
        case _:
            return b""
