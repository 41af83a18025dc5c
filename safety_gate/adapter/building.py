"""Builds the pieces of dW that are no plain LoRA: new values, tokens, and PEFT's own merges."""

import math
from collections.abc import Mapping, Sequence

from safety_gate.adapter.architecture import HEAD, INPUTS, Layer, layer_of, tied_head
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.parts import Merged, Part, Piece, ShellLayer, ShellRequest, View
from safety_gate.adapter.patterns import SUFFIX_FRAME, PatternSet
from safety_gate.adapter.targets import Selector

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


class Model:
    """The aligned checkpoint as far as its names, shapes and layers are known."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], model_type: str | None) -> None:
        self.shapes = shapes
        self.model_type = model_type
        embeddings = [
            name for name in shapes if name.endswith(".weight") and name.split(".")[-2] in INPUTS
        ]
        self._embedding = embeddings[0] if tied_head(shapes) and len(embeddings) == 1 else ""

    def stored(self, parameter: str) -> str:
        """Return the tensor that holds a parameter: of what is tied, the embedding's weight."""
        module, _, name = parameter.rpartition(".")
        tied = name == "weight" and (module == HEAD or module.rpartition(".")[2] in INPUTS)
        if parameter not in self.shapes and tied:
            return self._embedding
        return parameter

    def shape(self, parameter: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter; None where the checkpoint does not have it."""
        return self.shapes.get(self.stored(parameter))

    def layer(self, module: str) -> Layer:
        """Return the kind of layer that a module is."""
        return layer_of(module, self.shape(f"{module}.weight") or (), self.model_type)


def piece(
    model: Model, parameter: str, part: Part, *, rank: int = 0, scaling: float = 1.0
) -> Piece:
    """Return the change of a parameter that the model has, as a linear map sees it.

    A vector is a matrix of one column. An embedding maps a token to its row, so its rows are
    inputs. What has more than two dimensions is taken as one matrix of its last dimension's rows.
    """
    shape = model.shape(parameter)
    if shape is None:
        raise AssertionError(f"the model has no {parameter}")
    module, _, name = parameter.rpartition(".")
    if len(shape) == 2:
        rows, columns = shape
    else:
        columns = shape[-1] if len(shape) > 2 else 1
        rows = math.prod(shape) // max(1, columns)
    transposed = name == "weight" and model.layer(module) in ("conv1d", "embedding")
    return Piece(
        module=module if name == "weight" and len(shape) == 2 else parameter,
        changes=parameter,
        view=View(tensor=model.stored(parameter), whole=shape, shape=(rows, columns)),
        shape=(columns, rows) if transposed else (rows, columns),
        transposed=transposed,
        parts=(part,),
        rank=rank,
        scaling=scaling,
    )


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
            found.append(piece(model, f"{layer.module}.{name}", part))
    return found
