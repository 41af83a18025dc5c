"""How often a request is repeated, and how long is waited in between."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from safety_gate.errors import SourceError
from safety_gate.sources.hub_errors import HubError

T = TypeVar("T")

# "api";r=0;t=55 (draft-ietf-httpapi-ratelimit-headers): nothing remains for 55 seconds. At most
# nine digits, here and below: longer ones are nonsense.
NONE_REMAIN = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})\s*(?:$|[;,])")
SECONDS = re.compile(r"\s*([0-9]{1,9})\s*")  # the other form of Retry-After, a date, is not read
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The bounds of repeating one request."""

    attempts: int = 5
    first_wait: float = 0.5  # seconds; doubles from attempt to attempt, with jitter
    longest_backoff: float = 8.0  # seconds
    # The Hub counts requests in windows of five minutes; a server that asks for more than one
    # window is not waited for.
    longest_asked: float = 310.0  # seconds
    added: float = 1.0  # seconds on top of what is asked for: headers are rounded down


class Transient(Exception):
    """A fault that may be gone at the next attempt; carries what to say when it is not."""

    def __init__(self, error: SourceError, *, wait: float | None = None) -> None:
        """Keep our error, and the seconds that the server asked us to wait."""
        super().__init__(str(error))
        self.error = error
        self.wait = wait


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a 429 or 503 asks us to wait; None where it does not say.

    ``RateLimit`` counts only where nothing remains: it stands on every answer.
    """
    told = {name.lower(): value for name, value in headers.items()}
    match = NONE_REMAIN.search(told.get("ratelimit", ""))
    match = match or SECONDS.fullmatch(told.get("retry-after", ""))
    return None if match is None else float(match[1])


class Waiter:
    """Repeats steps with patience; close() ends every wait."""

    def __init__(self, patience: Patience) -> None:
        """Start open."""
        self.patience = patience
        self._closed = threading.Event()

    def close(self) -> None:
        """End the waits; a step that was waiting fails with its last error."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Tell whether close() was called."""
        return self._closed.is_set()

    def run(self, step: Callable[[], T]) -> T:
        """Take a step, again where it raises Transient.

        Raises:
            SourceError: that of the last attempt, or what the step itself raised.
        """
        retrying = tenacity.Retrying(
            stop=self._stop,
            wait=self._wait,
            retry=tenacity.retry_if_exception(self._is_worth_it),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(step)
        except Transient as fault:
            raise fault.error from None

    def _is_worth_it(self, error: BaseException) -> bool:
        if not isinstance(error, Transient) or self.closed:
            return False
        return error.wait is None or error.wait <= self.patience.longest_asked

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= self.patience.attempts

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, Transient) and fault.wait is not None:
            return fault.wait + self.patience.added if fault.wait else 0.0
        backoff = tenacity.wait_random_exponential(
            multiplier=self.patience.first_wait * 2, max=self.patience.longest_backoff
        )
        return backoff(state)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise HubError(
                "reading from the Hub was ended",
                where="the Hub",
                hint="Run the gate again.",
            )
