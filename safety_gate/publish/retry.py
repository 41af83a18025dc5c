"""When a request to GitHub is sent again, and how long is waited before."""

from types import TracebackType
from typing import Any

from github.GithubException import RateLimitExceededExceedsMaxWait
from github.GithubRetry import GithubRetry
from urllib3.connectionpool import ConnectionPool
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

RATE_LIMITED = frozenset({403, 429})
SERVER_FAULTS = range(500, 600)
# PyGithub retries POST on 5xx, where the first try may have been heard; and PATCH never.
METHODS = Retry.DEFAULT_ALLOWED_METHODS | {"PATCH"}


class GateRetry(GithubRetry):
    """PyGithub's rules, with three changes.

    - PATCH is retried like PUT: it says the same thing again. (The annotations of a check run are
      appended; a repeated PATCH may show some twice, which is better than not at all.)
    - POST is retried only where GitHub refused it for a rate limit. After a 5xx or a lost answer
      nobody knows whether it was heard: ``create_once`` looks before it asks again.
    - No wait is longer than ``max_rate_limit_wait``: a job must not sleep for an hour because a
      header says so.
    """

    pause: float = 0.0  # seconds to wait at least, before the next try

    def __init__(self, **options: Any) -> None:
        """Take the options of GithubRetry; methods and statuses are ours unless given."""
        options.setdefault("allowed_methods", METHODS)
        options.setdefault("status_forcelist", [*SERVER_FAULTS, *RATE_LIMITED])
        super().__init__(**options)

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        """Tell whether this answer asks for another try."""
        if method.upper() == "POST":
            return bool(self.total) and status_code in RATE_LIMITED
        return super().is_retry(method, status_code, has_retry_after)

    def get_backoff_time(self) -> float:
        """Return the seconds to wait where the answer did not name any."""
        return max(self.pause, super().get_backoff_time())

    def increment(  # type: ignore[override]
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Retry:
        """Count one try; refuse a wait that is too long."""
        asked = None if response is None else self.get_retry_after(response)
        limit = self.max_rate_limit_wait
        if response is not None and asked is not None and limit is not None and asked > limit:
            raise RateLimitExceededExceedsMaxWait(
                response.status, None, dict(response.headers), wait=asked
            )
        retry = super().increment(
            method,
            url,
            response,  # type: ignore[arg-type]  # urllib3 2 hands over a BaseHTTPResponse
            error,
            _pool,
            _stacktrace,
        )
        unnamed = response is not None and response.status == 429 and asked is None
        if unnamed and isinstance(retry, GateRetry):
            # GitHub asks to wait a minute at least where it does not say how long.
            retry.pause = min(self.secondary_rate_wait, limit or self.secondary_rate_wait)
        return retry
