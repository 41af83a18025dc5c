"""Candidate repairs that nobody has written yet, asked side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from safety_gate.places import plan_all
from safety_gate.probe.settings import Settings
from safety_gate.probe.variants import LowRank, Variant
from safety_gate.repair.bench import Bench
from safety_gate.repair.hearing import Trial
from safety_gate.repair.making import mender_for
from safety_gate.repair.mending import Mender
from safety_gate.repair.sight import Sight
from safety_gate.repair.writing import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What candidates are made of, and what they are asked."""

    bench: Bench
    sights: Mapping[str, Sight]
    layout: Layout
    settings: Settings

    def heard(self, trials: Sequence[Trial]) -> list[Mapping[str, float]]:
        """Ask the aligned model with each repair; return its figures, by metric.

        The factors are those that the files would hold, computed when the pass needs them.

        Raises:
            CannotProbe: the model cannot be asked.
            SourceError: its weights cannot be read.
        """
        from safety_gate.probe.behaviour import probe

        aligned = self.bench.aligned
        variants = [self._variant(f"trial {i}", trial) for i, trial in enumerate(trials)]
        plan_all(aligned)
        revision = aligned.fact(hash_files=False).revision
        fact = probe(aligned, variants, self.settings, revision=revision).fact
        return [fact.figures(variant.name) for variant in variants]

    def _variant(self, name: str, trial: Trial) -> Variant:
        method, modules = trial
        mender = mender_for(self.bench, method, self.layout)
        return Variant(
            name=name,
            updates={
                own.weight: (
                    LowRank(
                        scaling=own.scaling,
                        factors=partial(
                            self._factors, own.module, mender if own.module in modules else None
                        ),
                    ),
                )
                for own in self.bench.adapter.modules
            },
        )

    def _factors(self, module: str, mender: Mender | None) -> "tuple[torch.Tensor, torch.Tensor]":
        found = self.bench.factors(module)
        if mender is not None:
            found = mender.stored(module, found, self.sights.get(module))
        return found.a.float(), found.b.float()
