"""Small files, and the beginnings of large ones, kept in memory: they are read more than once."""

import threading
from collections import OrderedDict
from collections.abc import Callable

Load = Callable[[], memoryview]


class Kept:
    """Bytes by name, loaded once; the least recently used go first. Safe to share by threads."""

    def __init__(self, limit_bytes: int) -> None:
        """Start empty; at most ``limit_bytes`` stay between two calls."""
        self._limit = limit_bytes
        self._lock = threading.Lock()  # guards everything below
        self._bytes: OrderedDict[str, memoryview] = OrderedDict()
        self._total = 0
        self._loading: dict[str, threading.Lock] = {}

    def get(self, name: str, load: Load) -> memoryview:
        """Return the bytes of this name; only one thread loads them."""
        with self._lock:
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            with self._lock:
                known = self._bytes.get(name)
                if known is not None:
                    self._bytes.move_to_end(name)
                    return known
            loaded = load()
            self._keep(name, loaded)
            return loaded

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._bytes.clear()
            self._total = 0

    def _keep(self, name: str, loaded: memoryview) -> None:
        with self._lock:
            self._bytes[name] = loaded
            self._total += len(loaded)
            while self._total > self._limit:
                _, oldest = self._bytes.popitem(last=False)
                self._total -= len(oldest)
