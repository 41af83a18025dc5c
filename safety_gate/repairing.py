"""Judge, repair, judge again from the new files: the run-room's second road through the gate."""

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import assert_never

from safety_gate import gate
from safety_gate.asking import settings_of
from safety_gate.outcomes import Outcome, Scored
from safety_gate.places import Opener
from safety_gate.probe.failure import CannotProbe
from safety_gate.records import Finding, Passed, Report
from safety_gate.repair.bench import Bench, Inputs, check_plain, check_safety, open_bench
from safety_gate.repair.folder import check_free
from safety_gate.repair.guard import Guard
from safety_gate.repair.guarding import LADDER, guard_all, guard_candidates
from safety_gate.repair.hearing import heard_candidates
from safety_gate.repair.making import Shop, Work, mender_for, untouched, work_out, write
from safety_gate.repair.methods import SafeMerge, described, is_identity
from safety_gate.repair.plan import Auto, Order, Plan
from safety_gate.repair.record import Attempt, Ending, Repaired, settled
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.search import Candidate, Known, candidates, incurable, is_unasked
from safety_gate.repair.selection import Below, selected, worded
from safety_gate.repair.watch import SEARCH, Needs, Watch, needs_of
from safety_gate.trials import Trials

MOST_WRITTEN = 5  # candidates of the search that are written and judged, smallest change first


def repair_and_judge(
    request: gate.Request, order: Order, progress: gate.Progress | None = None
) -> Repaired:
    """Judge an adapter, write a repaired one, and judge that from its files.

    Args:
        request: what to judge; the repaired adapter is judged by the same policy.
        order: how to repair it.
        progress: hears of both judgments.

    Raises:
        GateError: an input cannot be read. What only the repair cannot do is in the answer.
    """
    check_free(order.output)
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safety-gate-")))
        opener = Opener(request.cache)
        stack.callback(opener.close)
        bench = open_bench(stack, _inputs(request, order, opener), private)
        refusal = _refusal(order, bench)
        if refusal is None:
            refusal = _guarded(request, order, bench, opener)
        watch = Watch(Needs()) if refusal else _watch(order, bench)
        before = gate.judge(request, progress, watch)
        watch.fill()
        bench.check(before)
        run = _Run(request, order, bench, opener, watch, before, private, progress)
        try:
            if refusal is not None:
                raise refusal
            return run.repaired()
        except CannotRepair as error:
            return run.ended("refused", why=f"{error}. {error.hint}")


def _inputs(request: gate.Request, order: Order, opener: Opener) -> Inputs:
    """Open what the gate itself will open, and the safety adapter.

    Raises:
        GateError: one cannot be read, or base and aligned are neither named nor known.
    """
    adapter = opener.open(request.adapter, whole=True)
    chosen = gate.chosen(request, gate.policy_of(request), adapter)
    return Inputs(
        adapter=adapter,
        aligned=opener.open(chosen.aligned, whole=False),
        base=opener.open(chosen.base, whole=False),
        safety=None if order.safety is None else opener.open(order.safety, whole=True),
    )


def _watch(order: Order, bench: Bench) -> Watch:
    """Return what follows the first judgment, told what the repair will need."""
    match order.choice:
        case Plan(method=method, selection=selection):
            if is_identity(method):
                return Watch(Needs())

            def wanted(outcome: Outcome) -> bool:
                if isinstance(selection, Below) and isinstance(outcome, Scored):
                    return selection.covers(outcome.score)
                return True

            mender = mender_for(bench, method, order.layout)
            # Padding to one rank needs to know all modules first: those are measured once more.
            ahead = None if order.layout.uniform_rank else mender
            apart = isinstance(method, SafeMerge)
            return Watch(needs_of(method), wanted=wanted, mender=ahead, apart=apart)
        case Auto():
            return Watch(SEARCH, safety=bench.safety_factors)
        case _:
            assert_never(order.choice)


def _refusal(order: Order, bench: Bench) -> CannotRepair | None:
    """Return why the order cannot be carried out, whatever the figures are."""
    try:
        check_plain(bench.adapter, "adapter")
        match order.choice:
            case Plan(method=SafeMerge() as method) if not is_identity(method):
                check_safety(bench, any_base=order.any_safety_base)
            case Auto() if bench.safety is not None:
                check_safety(bench, any_base=order.any_safety_base)
    except CannotRepair as error:
        return error
    return None


def _guarded(
    request: gate.Request, order: Order, bench: Bench, opener: Opener
) -> CannotRepair | None:
    """Work out guard where it is ordered: it looks at inputs and not at V, so it comes first."""
    match order.choice:
        case Plan(method=Guard() as method) if not is_identity(method):
            try:
                guard_all(bench, [method], settings_of(request.ask, opener))
            except CannotProbe as error:
                return CannotRepair(
                    f"the model cannot be asked: {error.what}",
                    where=error.where,
                    got=error.got,
                    expected=error.expected,
                    hint=error.hint,
                )
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """One repair after the first judgment."""

    request: gate.Request
    order: Order
    bench: Bench
    opener: Opener
    watch: Watch
    before: Report
    private: Path
    progress: gate.Progress | None

    def repaired(self) -> Repaired:
        """Repair as ordered."""
        if not self.before.modules:
            raise CannotRepair(
                "no module of the adapter was measured",
                where=str(self.request.adapter),
                hint="The report before the repair says why.",
            )
        if self.order.only_if_needed and isinstance(self.before.verdict, Passed):
            return self.ended("nothing to repair", why="The adapter passes as it is")
        match self.order.choice:
            case Plan() as plan:
                return self._planned(plan)
            case Auto():
                return self._searched()
            case _:
                assert_never(self.order.choice)

    def ended(
        self,
        ending: Ending,
        *,
        why: str,
        tried: Sequence[Attempt] = (),
    ) -> Repaired:
        """Return that nothing was written, and why."""
        return Repaired(
            ending=ending,
            before=self.before,
            after=None,
            made=None,
            inputs=None,
            tried=tuple(tried),
            output=None,
            why=why,
        )

    def _planned(self, plan: Plan) -> Repaired:
        """Apply one method; the folder is written whatever the verdict on it will be."""
        modules = selected(plan.selection, self.before)
        shop = self._shop()
        work = work_out(shop, plan, modules, ())
        why = "" if modules else f"No module is selected: {worded(plan.selection)}"
        if modules and not work.changed:
            why = f"{described(plan.method)} leaves every selected module as it is"
        return self._finished(shop, work, (), why=why)

    def _searched(self) -> Repaired:
        """Find the smallest repair whose files pass."""
        shop = self._shop()
        if isinstance(self.before.verdict, Passed):
            return self._finished(shop, untouched(shop), (), why="The adapter passes as it is")
        known = self._known()
        if stuck := incurable(self.before, known.policy):
            return self._stuck(stuck)
        found = self._candidates(known)
        judged: dict[int, str] = {}
        for index in _smallest_first(found):
            plan = Plan(method=found[index].method, selection=found[index].selection)
            note = f"Chosen by search: the smallest of {len(found)} repairs whose files pass"
            work = work_out(shop, plan, selected(plan.selection, self.before), (note,))
            beside = self.private / f"candidate-{index}"
            write(shop, work, beside)
            judged[index] = self._judged(beside, work).verdict.word
            if judged[index] == Passed().word:
                return self._finished(shop, work, _attempts(found, judged))
        return self.ended(
            "beyond repair",
            why=f"None of {len(found)} repairs passes the policy",
            tried=_attempts(found, judged),
        )

    def _stuck(self, findings: Sequence[Finding]) -> Repaired:
        """Say what no change of weights can lift."""
        rules = ", ".join(dict.fromkeys(finding.rule for finding in findings))
        if all(is_unasked(finding) for finding in findings):
            raise CannotRepair(
                "the policy looks at what the model says, and it was not asked for it",
                where=rules,
                hint=findings[0].hint,
            )
        return self.ended("beyond repair", why=f"No change of weights lifts this: {rules}")

    def _candidates(self, known: Known) -> tuple[Candidate, ...]:
        """Search by the figures, and by what the model says where it could be asked."""
        safety = self.bench.safety is not None
        if self.before.behaviour is None:
            return candidates(known, safety=safety)
        trials = Trials(
            bench=self.bench,
            sights=self.watch.sights,
            layout=self.order.layout,
            settings=settings_of(self.request.ask, self.opener),
        )
        found = heard_candidates(known, trials.heard, safety=safety)
        return (*found, *self._guards(known, trials))

    def _guards(self, known: Known, trials: Trials) -> tuple[Candidate, ...]:
        """Try guard, asked what it was not made with; nothing where too little is refused."""
        try:
            guard_all(self.bench, LADDER, trials.settings)
        except CannotProbe:
            return ()
        others = dataclasses.replace(trials, settings=trials.settings.half(1))
        return guard_candidates(self.bench, known, others.heard)

    def _known(self) -> Known:
        total = self.before.total
        if total is None:
            raise AssertionError("modules were scored without a total")
        request = self.request
        return Known(
            before=self.before,
            total=total,
            frames=self.watch.frames,
            sums=self.watch.sums,
            policy=gate.policy_of(request),
            today=request.today,
            workers=request.workers,
        )

    def _shop(self) -> Shop:
        return Shop(
            bench=self.bench,
            sights=self.watch.sights,
            mended=self.watch.mended,
            before=self.before,
            layout=self.order.layout,
            workers=self.request.workers,
        )

    def _finished(
        self, shop: Shop, work: Work, tried: Sequence[Attempt], *, why: str = ""
    ) -> Repaired:
        """Write the folder and judge it from its files; with no change it is a copy."""
        self.bench.close_safety()
        write(shop, work, self.order.output)
        self.bench.adapter.close()  # its room is free for the copy of the new one
        rules = gate.policy_of(self.request).policy.rules
        ruled = any(rule.scope == "behaviour" for rule in rules)
        after = settled(self.before, self._judged(self.order.output, work), ruled=ruled)
        return Repaired(
            ending="repaired" if work.changed else "nothing to repair",
            before=self.before,
            after=after,
            made=work.made,
            inputs=work.inputs,
            tried=tuple(tried),
            output=self.order.output,
            why=why,
        )

    def _judged(self, folder: Path, work: Work) -> Report:
        """Judge like any other adapter; only V of unchanged modules is not read again.

        Raises:
            ChangedWhileRead: the checkpoints are not those of the first judgment.
        """
        ask = self.request.ask
        if work.taught:
            ask = dataclasses.replace(ask, half=1)
        request = dataclasses.replace(self.request, adapter=folder, ask=ask)
        after = gate.judge(request, self.progress, self.watch)
        self.bench.check_pair(self.before, after)
        return after


def _smallest_first(found: Sequence[Candidate]) -> list[int]:
    """Return the places of the candidates worth writing, smallest change first."""
    good = [i for i, candidate in enumerate(found) if candidate.passes]
    return sorted(good, key=lambda i: found[i].change)[:MOST_WRITTEN]


def _attempts(found: Sequence[Candidate], judged: dict[int, str]) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(
            method=candidate.words[0],
            selection=candidate.words[1],
            change=candidate.change,
            forecast=candidate.passes,
            judged=judged.get(index, ""),
            kept=_figure(candidate, "answers_retained", "openings_retained"),
            exact=_figure(candidate, "utility_exact"),
        )
        for index, candidate in enumerate(found)
    )


def _figure(candidate: Candidate, *metrics: str) -> float | None:
    """Return the first of these figures that the model gave."""
    said = candidate.behaviour or {}
    return next((said[metric] for metric in metrics if metric in said), None)
