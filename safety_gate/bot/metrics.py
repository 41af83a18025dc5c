"""Figures for Prometheus: what this door saw, and how full the store is."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from safety_gate.jobs.facts import Counts
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds


class _StoreFigures(Collector):
    """Asks the store at each scrape; workers in other processes count through it too."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Return the figures; only ``store_up`` where the store does not answer."""
        up = GaugeMetricFamily("safety_gate_store_up", "1 where the store answers")
        try:
            counts = self._store.counts()
        except StoreDown:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _families(counts)


def _families(counts: Counts) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    jobs = GaugeMetricFamily("safety_gate_jobs", "Jobs by state", labels=["state"])
    for state, number in counts.jobs.items():
        jobs.add_metric([state], number)
    yield jobs
    oldest = "Seconds that the oldest queued job has waited"
    yield GaugeMetricFamily("safety_gate_oldest_queued_seconds", oldest, counts.oldest_queued)
    verdicts = GaugeMetricFamily("safety_gate_verdicts", "Verdicts by word", labels=["verdict"])
    for word in ("passed", "blocked", "undecided"):
        verdicts.add_metric([word], counts.verdicts.get(word, 0))
    yield verdicts
    events = CounterMetricFamily("safety_gate_events", "Events by answer", labels=["answer"])
    for answer, number in sorted(counts.arrivals.items()):
        events.add_metric([answer], number)
    yield events


class Metrics:
    """The figures of one door."""

    def __init__(self, store: JobStore) -> None:
        """Count from zero, in a registry of our own: two doors in one process do not mix."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "safety_gate_webhook_requests",
            "Requests to the webhook by status",
            ["status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "safety_gate_webhook_seconds",
            "Seconds until an accepted event was durable and answered",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_StoreFigures(store))

    def text(self) -> bytes:
        """Return the figures in the text format of Prometheus."""
        return generate_latest(self._registry)
