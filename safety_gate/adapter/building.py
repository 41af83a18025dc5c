"""Builds the pieces of dW that are no plain LoRA: new values, tokens, and PEFT's own merges."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from safety_gate.adapter.blueprint import Place
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.model import Model
from safety_gate.adapter.parts import Merged, Part, Piece, Product, ShellLayer, ShellRequest, View
from safety_gate.adapter.patterns import SUFFIX_FRAME, PatternSet
from safety_gate.adapter.targets import Selector
from safety_gate.tensors import TensorEntry

LORA_PASSED = (  # keys of a LoRA config that reach PEFT; all were checked
    "use_rslora",
    "init_lora_weights",
    "use_dora",
    "use_qalora",
    "qalora_group_size",
    "velora_config",
    "kasa_config",
    "monteclora_config",
    "lora_bias",
)
BIASED_KINDS = frozenset({"BEFT", "GLORA", "IA3", "ROAD"})  # their merge changes a bias too


def pieces(
    model: Model,
    parameter: str,
    part: Callable[[Place], Part],
    *,
    rank: int = 0,
    scaling: float = 1.0,
) -> list[Piece]:
    """Return the change of a parameter that the model has, matrix by matrix, as linear maps.

    An embedding maps a token to its row, so its rows are inputs.

    Args:
        model: the aligned model.
        parameter: its name in the model.
        part: makes the change of one of its stored matrices.
        rank: of the factors, where there are any.
        scaling: of their product.
    """
    return [
        piece_at(model, parameter, place, part(place), rank=rank, scaling=scaling)
        for place in model.places(parameter)
    ]


def piece_at(  # noqa: PLR0913
    model: Model, parameter: str, place: Place, part: Part, *, rank: int, scaling: float
) -> Piece:
    """Return the change of one stored matrix."""
    module, _, name = parameter.rpartition(".")
    inputs_first = model.is_turned(module) or (
        name == "weight" and model.layer(module) in ("conv1d", "embedding")
    )
    transposed = inputs_first != place.turned
    rows, columns = place.shape
    whole = math.prod(place.whole) == rows * columns
    tied = parameter not in model.shapes  # it changes on its own, whatever it shares a tensor with
    return Piece(
        module=place.name,
        changes=parameter if tied else place.tensor if whole else place.name,
        view=View(tensor=place.tensor, whole=place.whole, shape=place.shape, start=place.start),
        shape=(columns, rows) if transposed else (rows, columns),
        transposed=transposed,
        parts=(part,),
        rank=rank,
        scaling=scaling,
    )


def weight_pieces(
    model: Model,
    parameter: str,
    pair: tuple[TensorEntry, TensorEntry],
    *,
    rank: int,
    scaling: float,
) -> list[Piece]:
    """Return the update scaling * B @ A of a weight; several tensors may share its rows."""
    a, b = pair
    module = parameter.rpartition(".")[0]
    shape = model.shape(parameter) or ()

    def part(place: Place) -> Product:
        rows = None
        if len(model.places(parameter)) > 1:
            rows = (place.offset, place.offset + place.shape[1 if place.turned else 0])
        return Product(a_name=a.name, b_name=b.name, scaling=scaling, rows=rows)

    if not model.is_whole(parameter) and model.layer(module) != "linear":
        raise AssertionError(f"{parameter} of shape {shape} in several tensors is not linear")
    return pieces(model, parameter, part, rank=rank, scaling=scaling)


def shell_layer(model: Model, module: str) -> ShellLayer:
    """Return the layer that PEFT is to wrap."""
    weight = model.shape(f"{module}.weight")
    layer = model.layer(module)
    if weight is None or layer == "other":
        raise AssertionError(f"{module} is no layer that PEFT wraps")
    return ShellLayer(
        module=module,
        layer=layer,
        tensor=model.stored(f"{module}.weight"),
        shape=weight,
        bias=model.shape(f"{module}.bias"),
        bias_tensor=model.stored(f"{module}.bias"),
    )


def lora_request(
    config: Config, settings: Settings, selector: Selector, layer: ShellLayer, names: Sequence[str]
) -> ShellRequest:
    """Return the question to PEFT about one module of a LoRA adapter with variants."""
    passed = {name: config.values[name] for name in LORA_PASSED if name in config.values}
    r = selector.rank(layer.module)
    return ShellRequest(
        config={
            **passed,
            "peft_type": "LORA",
            "r": r,
            "lora_alpha": selector.alpha(layer.module),
            "fan_in_fan_out": layer.layer == "conv1d",
            "target_modules": [layer.module],
            "lora_bias": settings.lora_bias,
        },
        layers=(layer,),
        tensors=tuple(names),
        whole_model=False,
        needs_weights=True,
        changes_biases=settings.lora_bias,
    )


def kind_request(
    config: Config, layers: Sequence[ShellLayer], names: Sequence[str]
) -> ShellRequest:
    """Return the question to PEFT about one module, or about all, of another kind.

    Raises:
        PatternRefused: a regular expression of the config cannot be judged.
    """
    kind, values = config.kind_of, config.values
    if kind is None:
        raise AssertionError("a kind without a road")
    modules = [layer.module for layer in layers]
    passed = {name: values[name] for name in kind.passed if values.get(name) is not None}
    for key, replaced in kind.patterns.items():
        found = _by_pattern(key, values.get(key), modules[0])
        if found is not None:
            passed[replaced] = found
    if "feedforward_modules" in kind.passed:
        wanted = values.get("feedforward_modules")
        passed["feedforward_modules"] = [m for m in modules if _is_feedforward(wanted, m)]
    if values.get("peft_type") == "ADALORA":
        passed |= _adalora(values, modules[0])
    return ShellRequest(
        config={
            **passed,
            "peft_type": values["peft_type"],
            "target_modules": modules,
            **({"fan_in_fan_out": True} if _stored_as_conv1d(values, layers) else {}),
        },
        layers=tuple(layers),
        tensors=tuple(names),
        whole_model=kind.whole_model,
        needs_weights=kind.needs_weights,
        changes_biases=values["peft_type"] in BIASED_KINDS,
    )


def _stored_as_conv1d(values: Mapping[str, object], layers: Sequence[ShellLayer]) -> bool:
    """Tell whether PEFT should be told so; it corrects a wrong setting itself, with a warning."""
    return "fan_in_fan_out" in values and any(layer.layer == "conv1d" for layer in layers)


def _by_pattern(key: str, patterns: object, module: str) -> object:
    """Return the value of the first pattern that matches the module; None where none does."""
    if not isinstance(patterns, dict) or not patterns:
        return None
    index = PatternSet(key, list(patterns), frame=SUFFIX_FRAME).first(module)
    return None if index is None else list(patterns.values())[index]


def _is_feedforward(wanted: object, module: str) -> bool:
    """Tell whether IA3 scales the input of this module; endings match without a dot."""
    if isinstance(wanted, str):
        found = PatternSet("feedforward_modules", [wanted], fullmatch=True).first(module)
        return found is not None
    return isinstance(wanted, list) and any(module.endswith(str(name)) for name in wanted)


def _adalora(values: Mapping[str, object], module: str) -> dict[str, object]:
    """Return what AdaLoRA needs beside its scale: which ranks training has kept."""
    found: dict[str, object] = {"total_step": 1}  # only checked to be above 0
    patterns = values.get("rank_pattern")
    if isinstance(patterns, dict):
        kept = {f"{module}.lora_E", f"{module}.lora_E.default"}
        own = [value for name, value in patterns.items() if name in kept]
        found["rank_pattern"] = {f"{module}.lora_E": own[0]} if own else None
    return found


def merged_pieces(model: Model, request: ShellRequest) -> list[Piece]:
    """Return the pieces that the answer to one question covers."""
    found = []
    for layer in request.layers:
        names = (
            ("weight", "bias") if request.changes_biases and layer.bias is not None else ("weight",)
        )
        for name in names:
            part = Merged(request=request, module=layer.module, parameter=name)
            found += pieces(model, f"{layer.module}.{name}", partial(_same, part))
    return found


def _same(part: Merged, _: Place) -> Merged:
    """Return the part, wherever it is: PEFT merges whole tensors only."""
    return part
