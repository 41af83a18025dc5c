"""Which modules PEFT 0.21.2 would wrap, and with which rank and alpha.

Follows check_target_module_exists and _maybe_include_all_linear_layers (tuners/tuners_utils.py)
and get_pattern_key (utils/other.py). Its order matters: exclusion, then modules_to_save, then
the targets; layers_to_transform narrows only what matched by its ending, not by its full name.
"""

import re
from collections.abc import Iterable

from safety_gate.adapter.config import Settings
from safety_gate.adapter.keys import scale
from safety_gate.adapter.model import Model
from safety_gate.adapter.patterns import SUFFIX_FRAME, PatternSet

ALL_LINEAR = "all-linear"  # PEFT compares in lower case
DUMMY = "dummy-target-modules"  # PEFT's word for: wrap nothing
ANY_LAYER = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")  # PEFT's own, when no layers_pattern is set
CONDENSED_FROM = 20  # targets; PEFT then shortens the list, so that full names become endings


def _endings(name: str) -> Iterable[str]:
    """Yield the name, and what follows each of its dots."""
    while name:
        yield name
        name = name.partition(".")[2]


class Selector:
    """Answers for one config which modules are wrapped."""

    def __init__(self, settings: Settings, model: Model) -> None:
        """Compile the patterns.

        Raises:
            PatternRefused: a regular expression of the config cannot be judged.
        """
        self._settings = settings
        targets = settings.targets
        if targets is None:
            targets = model.defaults
        self._expression: PatternSet | None = None
        self._names: frozenset[str] = frozenset()
        if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
            self._names = frozenset(_all_linear(model))
        elif isinstance(targets, str):
            wanted = [] if targets == DUMMY else [targets]
            self._expression = PatternSet("target_modules", wanted, fullmatch=True)
        else:
            self._names = frozenset(targets)
        self._condensed = len(self._names) >= CONDENSED_FROM
        exclude = settings.exclude
        self._excluding = PatternSet(
            "exclude_modules",
            [exclude] if isinstance(exclude, str) and exclude else [],
            fullmatch=True,
        )
        self._excluded = frozenset(exclude if isinstance(exclude, tuple) else ())
        self._saved = PatternSet("modules_to_save", settings.saved, frame=r"(^|.*\.){}($|\..*)")
        self._layers = PatternSet(
            "layers_pattern", settings.layers_pattern, frame=r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
        )
        self._ranks = PatternSet("rank_pattern", [*settings.rank_pattern], frame=SUFFIX_FRAME)
        self._alphas = PatternSet("alpha_pattern", [*settings.alpha_pattern], frame=SUFFIX_FRAME)

    def wraps(self, module: str) -> bool:
        """Tell whether PEFT would put LoRA on this module."""
        if not self._excluded.isdisjoint(_endings(module)):
            return False
        if self._excluding.first(module) is not None or self._saved.first(module) is not None:
            return False
        if self._expression is not None:
            return self._expression.first(module) is not None
        if module in self._names and not (self._condensed and self._settings.layers):
            return True
        return not self._names.isdisjoint(_endings(module)) and self._in_layers(module)

    def unclear(self, module: str) -> bool:
        """Tell whether PEFT's shortening of a long list decides about this module.

        A full name is exempt from layers_to_transform, an ending is not. Which full names of a
        list of CONDENSED_FROM and more PEFT turns into endings depends on the whole model.
        """
        return bool(self._condensed and self._settings.layers and module in self._names)

    def rank(self, module: str) -> int:
        """Return the rank that PEFT gives the module."""
        settings = self._settings
        index = self._ranks.first(module)
        return settings.r if index is None else [*settings.rank_pattern.values()][index]

    def alpha(self, module: str) -> float:
        """Return the alpha that PEFT gives the module."""
        settings = self._settings
        index = self._alphas.first(module)
        return settings.alpha if index is None else [*settings.alpha_pattern.values()][index]

    def scaling(self, module: str) -> float:
        """Return the factor that PEFT multiplies B @ A of the module with."""
        return scale(self.alpha(module), self.rank(module), rslora=self._settings.rslora)

    def _in_layers(self, module: str) -> bool:
        """Tell whether layers_to_transform lets the module through."""
        settings = self._settings
        if not settings.layers:
            return True
        if settings.layers_pattern:
            index = self._layers.first_group(module, "idx")
        else:
            found = ANY_LAYER.match(module)
            index = found["idx"] if found else None
        return index is not None and int(index) in settings.layers


def _all_linear(model: Model) -> Iterable[str]:
    """Yield the linear modules but the head."""
    for module in model.modules:
        if module != model.head and model.layer(module) in ("linear", "conv1d"):
            yield module
