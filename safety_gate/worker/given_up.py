"""The report of a job that could not be judged: Undecided, never nothing."""

from safety_gate import __version__
from safety_gate.jobs.facts import Lease
from safety_gate.records import Finding, Place, Report, Undecided


def given_up(lease: Lease, tries: int) -> Report:
    """Say that judging was tried so often, and how to go on."""
    finding = Finding(
        rule="job-given-up",
        severity="undecided",
        place=Place(kind="adapter", name=f"{lease.repo}@{lease.sha}"),
        what=f"judging was begun {tries} times and never came to an end",
        hint="Look into the log of the workers for this commit, then push it again.",
    )
    return Report(
        verdict=Undecided(),
        findings=(finding,),
        adapter=None,
        base=None,
        aligned=None,
        policy=None,
        modules=(),
        total=None,
        ledger=(),
        evidence="none: the job was given up",
        versions={"safety-gate": __version__},
    )
