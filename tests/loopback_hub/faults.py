"""Faults on purpose: the nth request of a route goes wrong in a chosen way."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong, and when. Without any effect below, the request is answered normally."""

    route: str  # see ROUTES in recorder.py; "*" for all
    nth: int = 1  # the first request that is hit, counted from 1 among those that fit
    times: int | None = 1  # how many are hit from then on; None for all
    method: str | None = None
    path: str = ""  # a part of the decoded path

    status: int | None = None  # answer this instead
    headers: Mapping[str, str] = field(default_factory=dict)  # added to any answer
    body: bytes = b'{"error":"a fault on purpose"}'  # with status
    delay: float = 0.0  # seconds before anything is answered
    drop: bool = False  # the connection ends without an answer
    cut_after: int | None = None  # the connection ends after so many bytes of the body
    slow_bytes: int | None = None  # the body comes in pieces of so many bytes, 50 ms apart
    ignore_range: bool = False  # answer 200 and the whole file
    span_shift: int = 0  # Content-Range names a span so many bytes further on
    corrupt: bool = False  # one bit of the body is another
    seen: int = 0  # requests that fitted so far

    def hits(self, route: str, method: str, path: str) -> bool:
        """Count a request; tell whether it goes wrong."""
        fits = self.route in ("*", route) and self.method in (None, method) and self.path in path
        if not fits:
            return False
        self.seen += 1
        last = self.nth + self.times - 1 if self.times is not None else self.seen
        return self.nth <= self.seen <= last


class Faults:
    """The faults of one Hub, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Let requests go wrong from now on."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Answer everything normally again."""
        with self._lock:
            self._faults.clear()

    def take(self, route: str, method: str, path: str) -> Fault | None:
        """Return the fault that hits this request; every fault counts it."""
        with self._lock:
            hit = [fault for fault in self._faults if fault.hits(route, method, path)]
        return hit[0] if hit else None


def rate_limited(route: str, *, seconds: int = 0, nth: int = 1, times: int | None = 1) -> Fault:
    """Return the Hub's 429 with RateLimit headers."""
    headers = {
        "RateLimit": f'"api";r=0;t={seconds}',
        "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
    }
    return Fault(route=route, nth=nth, times=times, status=429, headers=headers)
