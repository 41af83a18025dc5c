"""Updates of bare parameters, such as the stacked experts of a mixture: LoRA's target_parameters.

PEFT 0.21.2 (tuners/lora/layer.py, ParamWrapper) wraps the module once for each of its targeted
parameters, in the order in which they were registered; so the last one's factors stand at the
module itself, and each one before it a ``base_layer`` deeper. For a stack (experts, ., .) the two
factors hold the experts in different orders: A is (experts * r, in), B is (out, r * experts).

Adapters from before transformers 5 name each expert's own layers. PEFT converts their targets for
some architectures (utils/transformers_weight_conversion.py), which is followed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safety_gate.adapter.blueprint import Place
from safety_gate.adapter.building import piece_at, pieces
from safety_gate.adapter.config import Settings
from safety_gate.adapter.model import Model
from safety_gate.adapter.parts import Piece, Product
from safety_gate.adapter.patterns import PatternRefused
from safety_gate.adapter.remark import shown
from safety_gate.adapter.targets import ALL_LINEAR, Selector
from safety_gate.tensors import TensorEntry

# What PEFT makes of targets from before transformers 5 (_MOE_TARGET_MODULE_MAPPING).
CONVERTED: Mapping[str, Mapping[str, str]] = {
    "mixtral": {
        "gate": "gate.weight",
        "w1": "gate_up_proj",
        "w3": "gate_up_proj",
        "w2": "down_proj",
    },
    "qwen2_moe": {
        "gate": "gate.weight",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
        "down_proj": "down_proj",
    },
}
FUSED = "gate_up_proj"  # made of two older layers, both of which must be targeted


class TargetsRefused(PatternRefused):
    """PEFT could not convert the targets of an adapter for this architecture."""

    rule = "targets-refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The two factors of one update."""

    a: TensorEntry
    b: TensorEntry


def convert_targets(settings: Settings, model: Model) -> Settings:
    """Return the settings as PEFT changes them for architectures with stacked experts.

    Raises:
        TargetsRefused: PEFT refuses them.
    """
    table = CONVERTED.get(model.converts)
    if table is None:
        return settings
    targets = settings.targets
    if isinstance(targets, str):
        targets = _resolved(settings, model, table)
        if not targets:
            return settings
    kept, parameters, old = [], list(settings.parameters), set()
    for target in targets or ():
        name = next((n for n in table if target == n or target.endswith(f".{n}")), None)
        if name is None:
            kept.append(target)
            continue
        parameters.append(table[name])
        old.add(name)
    fused = {name for name, new in table.items() if new == FUSED}
    ranks, alphas = dict(settings.rank_pattern), dict(settings.alpha_pattern)
    if old & fused:
        if not fused <= old:
            raise _refused(sorted(old & fused), f"all of {', '.join(sorted(fused))}")
        pattern = rf".*\.{FUSED}"
        ranks[pattern], alphas[pattern] = settings.r * len(fused), settings.alpha * len(fused)
    return replace(
        settings,
        targets=tuple(kept),
        parameters=tuple(dict.fromkeys(parameters)),
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )


def _resolved(settings: Settings, model: Model, table: Mapping[str, str]) -> tuple[str, ...]:
    """Return the last parts of the names that a pattern matches, of layers that were included."""
    selector = Selector(settings, model)
    if str(settings.targets).lower() == ALL_LINEAR:
        found = {name.rpartition(".")[2] for name in model.modules if selector.wraps(name)}
        return tuple(sorted(found | set(table)))
    names = [*model.modules, *model.shapes]
    found = {name.rpartition(".")[2] for name in names if selector.wraps(name)}
    for name in model.shapes:
        module, _, last = name.rpartition(".")
        olds = [old for old, new in table.items() if new == last and old not in found]
        found |= {old for old in olds if selector.wraps(f"{module}.{old}")}
    return tuple(sorted(found))


def _refused(got: object, expected: str) -> TargetsRefused:
    return TargetsRefused(
        "PEFT cannot convert these targets to the stacked experts of this model",
        where="target_modules",
        got=shown(got),
        expected=expected,
        hint="Target all layers of the experts that transformers joins, or none of them.",
    )


def wrapped_parameters(model: Model, settings: Settings) -> dict[str, str]:
    """Return the parameter whose factors the file holds under each module path."""
    by_module: dict[str, list[str]] = {}
    for parameter in model.parameters_of(settings.parameters):
        by_module.setdefault(parameter.rpartition(".")[0], []).append(parameter)
    return {
        module + ".base_layer" * (len(names) - 1 - at): name
        for module, names in by_module.items()
        for at, name in enumerate(names)
    }


def stack_fault(model: Model, parameter: str, pair: Factors, rank: int) -> tuple[str, str]:
    """Return the rule that the factors of a parameter break, and the evidence."""
    shape = model.shape(parameter) or ()
    evidence = f"A {pair.a.shape}, B {pair.b.shape}, parameter {shape}, rank {rank}"
    if len(shape) not in (2, 3) or len(pair.a.shape) != 2 or len(pair.b.shape) != 2:
        return "shape-differs", evidence
    module = parameter.rpartition(".")[0]
    experts, rows, columns = shape if len(shape) == 3 else (1, *shape)
    if model.is_turned(module) and len(shape) == 3:
        rows, columns = columns, rows
    if pair.a.shape[0] != experts * rank or pair.b.shape[1] != experts * rank:
        return "rank-differs", evidence
    if (pair.b.shape[0], pair.a.shape[1]) != (rows, columns):
        return "shape-differs", evidence
    if len(shape) == 3 and not model.is_stack(module):
        return "layout-not-scored", evidence
    if model.is_turned(module) and not all(_is_full(p, shape) for p in model.places(parameter)):
        return "layout-not-scored", evidence
    return "", ""


def _is_full(place: Place, shape: Sequence[int]) -> bool:
    """Tell whether a place holds a whole expert."""
    return place.shape[0] * place.shape[1] == shape[-1] * shape[-2]


def stack_pieces(
    model: Model, selector: Selector, parameter: str, a_name: str, b_name: str
) -> list[Piece]:
    """Return the update of a parameter, matrix by matrix."""
    shape = model.shape(parameter) or ()
    module, _, name = parameter.rpartition(".")
    experts = shape[0] if len(shape) == 3 else 1
    scaling = selector.scaling(parameter)
    # PEFT takes any matrix as (out, in); where it is not, B @ A is the transpose of the map.
    swapped = name == "weight" and model.layer(module) in ("conv1d", "embedding")

    def part(place: Place) -> Product:
        height = place.shape[1] if place.turned else place.shape[0]
        whole = model.is_turned(module) or height == shape[-2]
        return Product(
            a_name=a_name,
            b_name=b_name,
            scaling=scaling,
            expert=place.expert,
            experts=experts,
            rows=None if whole else (place.offset, place.offset + height),
            swapped=swapped,
        )

    rank = selector.rank(parameter)
    return pieces(model, parameter, part, rank=rank, scaling=scaling)


def expert_fault(place: Place, layers: int, pair: Factors, rank: int) -> tuple[str, str]:
    """Return the rule that the factors of one expert's own layer break, and the evidence.

    Args:
        place: where the layer went.
        layers: of the expert that were joined; PEFT joins their ranks.
        pair: the factors.
        rank: that PEFT gives the parameter.
    """
    evidence = f"A {pair.a.shape}, B {pair.b.shape}, weight {place.shape}, rank {rank}"
    if len(pair.a.shape) != 2 or len(pair.b.shape) != 2:
        return "shape-differs", evidence
    if pair.a.shape[0] * layers != rank or pair.b.shape[1] * layers != rank:
        return "rank-differs", evidence
    shape = place.shape[::-1] if place.turned else place.shape
    if (pair.b.shape[0], pair.a.shape[1]) != shape:
        return "shape-differs", evidence
    return "", ""


def expert_piece(
    model: Model, selector: Selector, parameter: str, place: Place, pair: Factors
) -> Piece:
    """Return the update of one expert's own layer."""
    scaling = selector.scaling(parameter)
    part = Product(a_name=pair.a.name, b_name=pair.b.name, scaling=scaling)
    rank = pair.a.shape[0]
    return piece_at(model, parameter, place, part, rank=rank, scaling=scaling)
