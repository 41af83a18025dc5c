"""Our own client of a loopback Hub, with the patience of a test."""

from typing import Literal

from safety_gate.sources.hub_client import HubClient, Timeouts
from safety_gate.sources.hub_patience import Patience
from tests.loopback_hub.server import LoopbackHub

QUICK = Patience(attempts=4, first_wait=0.001, longest_backoff=0.01, longest_asked=5.0, added=0.0)


def quick_client(
    hub: LoopbackHub,
    token: str | Literal[False] | None = False,
    *,
    timeouts: Timeouts | None = None,
    patience: Patience = QUICK,
) -> HubClient:
    """Return a client that gives up soon."""
    return HubClient(
        endpoint=hub.endpoint,
        token=token,
        timeouts=timeouts or Timeouts(connect=2.0, read=5.0),
        patience=patience,
    )
