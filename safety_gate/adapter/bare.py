"""Sorts the factors of bare parameters, and of experts that older files name one by one."""

from safety_gate.adapter.blueprint import Place, Spot
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.experts import (
    Factors,
    expert_fault,
    expert_piece,
    stack_fault,
    stack_pieces,
    wrapped_parameters,
)
from safety_gate.adapter.model import Model
from safety_gate.adapter.sorting import Sorted, count_of
from safety_gate.adapter.targets import Selector
from safety_gate.tensors import TensorEntry, decodable


class BareSorter:
    """Takes the factors that belong to no layer; one use only."""

    def __init__(
        self, result: Sorted, model: Model, settings: Settings, selector: Selector, config: Config
    ) -> None:
        """Find what the config targets; ``result`` takes what becomes of it."""
        self._result, self._model = result, model
        self._selector, self._config = selector, config
        self._wrapped = wrapped_parameters(model, settings)
        self._factors: dict[str, dict[str, TensorEntry]] = {}  # by path in the file, then by factor
        self._experts: dict[str, Spot] = {}  # by path
        self._unmatched = [name for name in settings.parameters if not model.parameters_of((name,))]

    def takes(self, path: str, factor: str, entry: TensorEntry) -> bool:
        """Take a factor; False where its path is a layer's."""
        if path not in self._wrapped:
            spot = None if path in self._model.modules else self._model.find(path)
            if spot is None or spot.place is None:
                return False
            self._experts[path] = spot
        self._factors.setdefault(path, {})[factor] = entry
        return True

    def judge(self) -> None:
        """Judge every parameter; score it only when everything fits."""
        for name in self._unmatched:
            self._result.put("parameter-not-there", name)
        for path, parameter in sorted(self._wrapped.items()):
            if path in self._factors:
                self._judge_stack(path, parameter)
        lone = {p for path, p in self._wrapped.items() if path in self._factors}
        found: dict[str, set[str]] = {}
        wanted: dict[str, int] = {}
        for path, spot in sorted(self._experts.items()):
            names = found.setdefault(spot.parameter, set())
            if spot.place is None or spot.place.name in names or spot.parameter in lone:
                self._result.put("updates-collide", path)
            else:
                names.add(spot.place.name)
                self._judge_expert(path, spot, spot.place)
                wanted[spot.parameter] = (
                    spot.layers * (self._model.shape(spot.parameter) or (0,))[0]
                )
        for parameter in self._wrapped.values():
            if parameter not in lone and len(found.get(parameter, ())) != wanted.get(parameter):
                self._miss("module-without-tensors", parameter)

    def _judge_stack(self, path: str, parameter: str) -> None:
        """Judge the factors of a whole parameter."""
        pair = self._pair(path)
        if pair is None:
            self._miss("factor-missing", parameter)
            return
        rank = self._selector.rank(parameter)
        rule, got = self._common_fault(parameter, pair) or stack_fault(
            self._model, parameter, pair, rank
        )
        if rule:
            self._miss(rule, parameter, got)
            return
        for each in stack_pieces(self._model, self._selector, parameter, pair.a.name, pair.b.name):
            self._result.add(each, [pair.a.name, pair.b.name], "factor of a parameter")

    def _judge_expert(self, path: str, spot: Spot, place: Place) -> None:
        """Judge the factors of one layer of one expert."""
        parameter = spot.parameter
        pair = self._pair(path)
        if pair is None:
            self._miss("factor-missing", parameter, path)
            return
        if parameter not in self._wrapped.values():
            self._result.put("lora-not-loaded", path)
            return
        rank = self._selector.rank(parameter)
        rule, got = self._common_fault(parameter, pair) or expert_fault(
            place, spot.layers, pair, rank
        )
        if rule:
            self._miss(rule, parameter, got)
            return
        piece = expert_piece(self._model, self._selector, parameter, place, pair)
        self._result.add(piece, [pair.a.name, pair.b.name], "factor of an expert")

    def _pair(self, path: str) -> Factors | None:
        """Return both factors, and nothing else; None where it is otherwise."""
        found = self._factors[path]
        if found.keys() != {"A", "B"}:
            return None
        return Factors(a=found["A"], b=found["B"])

    def _common_fault(self, parameter: str, pair: Factors) -> tuple[str, str] | None:
        """Return what is wrong whatever the shapes are; None: nothing."""
        if self._config.shell or self._config.spoiled:
            return "layout-not-scored", "a variant of LoRA"  # PEFT refuses these together
        module = parameter.rpartition(".")[0]
        if self._selector.wraps(module):
            return "updates-collide", "its module is targeted as well"
        if not (decodable(pair.a) and decodable(pair.b)):
            return "dtype-not-read", f"A {pair.a.dtype}, B {pair.b.dtype}"
        return None

    def _miss(self, rule: str, parameter: str, got: str = "") -> None:
        """Note a parameter that changes, and that nobody says how."""
        self._result.put(rule, parameter, got)
        for place in self._model.places(parameter):
            whole = count_of(place.whole) == count_of(place.shape)
            self._result.change(place.tensor if whole else place.name, count_of(place.shape))
