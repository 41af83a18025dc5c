"""Publications for tests: made of the sample reports."""

from collections.abc import Sequence

from safety_gate.publish.github import Patience
from safety_gate.publish.publication import Judged, Publication, Word
from safety_gate.records import Report
from tests.sample_reports import blocked, passed, undecided

HEAD, BASE, MERGE, OTHER = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)
RUN_URL = "https://github.example/octo/adapters/actions/runs/4711"
QUICK = Patience(
    tries=3, longest_wait=2.0, backoff=0.0, timeout=5, between_reads=0.0, between_writes=0.0
)
REPORTS = {"passed": passed, "blocked": blocked, "undecided": undecided}


def publication(
    *reports: Report | str,
    commit: str = HEAD,
    gate_id: str = "safety-gate",
    note: str = "Adapters: those of the test.",
    tolerated: Sequence[Word] = (),
    caveats: tuple[str, ...] = (),
) -> Publication:
    """Return what a run found; reports may be given by their verdict."""
    made = [REPORTS[one]() if isinstance(one, str) else one for one in reports]
    return Publication(
        gate_id=gate_id,
        commit=commit,
        judged=tuple(
            Judged(name=f"adapters/a{number}", report=report) for number, report in enumerate(made)
        ),
        note=note,
        tolerated=frozenset(tolerated),
        run_url=RUN_URL,
        caveats=caveats,
    )
