"""What can go wrong on the way, on demand."""

import re
from dataclasses import dataclass, field
from typing import Literal

Cut = Literal["", "reset", "half"]


@dataclass(slots=True)
class Fault:
    """One fault, on the nth request that matches, as often as told."""

    method: str
    path: str  # regular expression, searched in the path below the prefix
    status: int = 502
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    heard: bool = False  # the server has done what it was asked, and only the answer is lost
    cut: Cut = ""  # "reset": the connection breaks; "half": the answer stops in its middle
    body: str | None = None  # an answer that is no JSON of GitHub's
    nth: int = 1
    times: int = 1
    _seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Tell whether this request is hit; counts it."""
        if method != self.method or not re.search(self.path, path):
            return False
        self._seen += 1
        return self.nth <= self._seen < self.nth + self.times


def secondary_limit(method: str, path: str, *, times: int = 1) -> Fault:
    """Return GitHub's secondary rate limit as it is answered without a header."""
    message = (
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    )
    return Fault(method, path, status=403, message=message, times=times)


def too_many(method: str, path: str, retry_after: int | None, *, times: int = 1) -> Fault:
    """Return a 429, with or without the seconds to wait."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(
        method, path, status=429, message="Too many requests", headers=headers, times=times
    )
