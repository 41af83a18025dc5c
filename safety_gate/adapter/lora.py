"""The tensors of a LoRA adapter: each is a part of the update of a module, or a finding."""

from collections.abc import Mapping

from safety_gate.adapter.bare import BareSorter
from safety_gate.adapter.building import (
    lora_request,
    merged_pieces,
    pieces,
    shell_layer,
    weight_pieces,
)
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.experts import convert_targets
from safety_gate.adapter.model import Model
from safety_gate.adapter.others import sort_kind
from safety_gate.adapter.parts import Addition
from safety_gate.adapter.sorting import (
    PREFIX,
    Change,
    LoraModule,
    Sorted,
    count_of,
    is_saved,
    replace_rows,
    saved_without_tensors,
    sort_parameter,
)
from safety_gate.adapter.targets import Selector
from safety_gate.tensors import TensorEntry, TensorFile, decodable

__all__ = ["Change", "LoraModule", "Sorted", "sort_tensors", "sort_without_config"]

FACTORS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "A of embedding",
    ".lora_embedding_B": "B of embedding",
    ".lora_B.bias": "bias",
}
OWN_TENSORS = {  # of variants, by the key that asks for them; part of the name
    "use_dora": "lora_magnitude_vector",
    "kasa_config": "lora_diag",
    "velora_config": "lora_velora_embed",
    "monteclora_config": "lora_monteclora_sampler",
}
TOKENS = ".token_adapter.trainable_tokens_delta"


def sort_tensors(file: TensorFile, config: Config, model: Model) -> Sorted:
    """Give every tensor an owner or a finding.

    Raises:
        PatternRefused: a regular expression of the config cannot be judged.
    """
    if config.settings is None:
        return sort_without_config(file, config, model)
    if config.kind_of is not None:
        return sort_kind(file, config, config.kind_of, config.settings, model)
    return _Sorter(file, config, config.settings, model).run()


def sort_without_config(file: TensorFile, config: Config, model: Model) -> Sorted:
    """Note what would overwrite the model, and what the names say is changed, unscored."""
    result = Sorted()
    shapes = model.shapes
    judged = config.other_kind  # named as a whole by a finding of its own
    for name in file.entries:
        stem = name.removeprefix(PREFIX)
        parameter = stem.replace(".base_layer.", ".")
        if stem != name and (parameter in shapes or parameter == f"{model.head}.weight"):
            saved = parameter == stem and is_saved(parameter.rpartition(".")[0], config.saved)
            result.put("modules-to-save" if saved else "tensor-overwrites-base", name)
            result.change(parameter, count_of(shapes.get(parameter, file.entries[name].shape)))
            continue
        module = stem
        while module and f"{module}.weight" not in shapes:
            module = module.rpartition(".")[0]
        if module:
            result.change(f"{module}.weight", count_of(shapes[f"{module}.weight"]))
        result.owners[name] = f"{config.kind}, not scored yet" if judged else "not judged"
        if not judged:
            result.put("tensor-unjudged", name)
    return result


class _Sorter:
    """Sorts the tensors of one LoRA file; one use only."""

    def __init__(
        self,
        file: TensorFile,
        config: Config,
        settings: Settings,
        model: Model,
    ) -> None:
        self._file = file
        self._config = config
        self._model = model
        self._settings = settings = convert_targets(settings, model)
        self._selector = Selector(settings, model)
        self._result = Sorted()
        self._bare = BareSorter(self._result, model, settings, self._selector, config)
        self._factors: dict[str, dict[str, TensorEntry]] = {}  # by module, then by factor or name

    def run(self) -> Sorted:
        """Sort all tensors, then judge all modules."""
        targeted = {module for module in self._model.modules if self._selector.wraps(module)}
        for name, entry in self._file.entries.items():
            self._sort(name, entry, targeted)
        for module, factors in sorted(self._factors.items()):
            self._judge(module, factors)
        for module in targeted - self._factors.keys():
            self._judge_target(module)
        self._bare.judge()
        saved_without_tensors(self._result, self._model, self._file, self._settings.saved)
        self._judge_tokens()
        return self._result

    def _judge_tokens(self) -> None:
        """Name trained tokens that the file does not hold; PEFT would not load it."""
        held = [name.removesuffix(TOKENS) for name in self._file.entries if name.endswith(TOKENS)]
        for name in self._settings.tokens:
            if not any(module.endswith(name) for module in held):
                self._result.put("saved-without-tensors", name or "trainable_token_indices")

    def _sort(self, name: str, entry: TensorEntry, targeted: set[str]) -> None:
        """Find the owner of one tensor."""
        stem = name.removeprefix(PREFIX)
        if stem == name:  # PEFT would not find a place for it
            self._result.put("tensor-unexplained", name)
            return
        for suffix, factor in FACTORS.items():
            if stem.endswith(suffix) and (factor != "bias" or self._settings.lora_bias):
                self._result.owners[name] = f"factor {factor}"
                self._take(stem.removesuffix(suffix), factor, entry)
                return
        if stem.endswith(TOKENS) and self._settings.tokens:
            module = stem.removesuffix(TOKENS)
            replace_rows(self._result, self._model, module, entry, self._tokens(module))
        elif ".lora_" in stem and (self._config.shell or self._config.spoiled):
            self._result.owners[name] = "variant"
            self._take(stem.partition(".lora_")[0], name, entry)
        else:
            sort_parameter(
                self._result,
                self._model,
                entry,
                saved=self._settings.saved,
                targeted=targeted,
                bias=self._settings.bias,
            )

    def _take(self, path: str, factor: str, entry: TensorEntry) -> None:
        """Note a factor under its module, or under its bare parameter."""
        if self._bare.takes(path, factor, entry):
            return
        spot = None if path in self._model.modules else self._model.find(path)
        if spot is not None and not self._renames(path, spot.module):
            self._result.put("names-older", path)
        factors = self._factors.setdefault(spot.module if spot else path, {})
        if factor in factors:  # the module is there under its old name and its new one
            self._result.put("updates-collide", path)
        factors[factor] = entry

    def _renames(self, old: str, new: str) -> bool:
        """Tell whether PEFT gives the factors of a module their newer name, and we can follow.

        It undoes what looks like a prefix that was cut off: where the whole old name ends so.
        """
        undone = f"{PREFIX}{old}".endswith(new)
        return self._model.renames and not undone and not self._config.shell

    def _tokens(self, module: str) -> tuple[int, ...] | None:
        """Return the trained tokens of a module; PEFT matches by plain endings."""
        tokens = self._settings.tokens
        return next((found for name, found in tokens.items() if module.endswith(name)), None)

    def _judge(self, module: str, factors: Mapping[str, TensorEntry]) -> None:
        """Judge the tensors of one module; score them only when everything fits."""
        weight = f"{module}.weight"
        shape = self._model.shape(weight)
        rule, got = self._fault(module, shape, factors)
        scored = not rule and not self._config.spoiled
        if rule == "lora-not-loaded" and self._model.converts:
            rule = "targets-converted"
        if rule:
            self._result.put(rule, module, got)
        if shape is not None and rule != "lora-not-loaded" and not scored:
            self._result.change(self._model.stored(weight), count_of(shape))
            if f"{module}.bias" in self._model.shapes and "bias" in factors:
                self._result.change(self._model.stored(f"{module}.bias"), shape[0])
        if scored and shape is not None:
            self._add(module, shape, factors)

    def _fault(
        self, module: str, shape: tuple[int, ...] | None, factors: Mapping[str, TensorEntry]
    ) -> tuple[str, str]:
        """Return the rule that the tensors of a module break, and the evidence."""
        layer = self._model.layer(module) if shape else "other"
        if not self._selector.wraps(module):
            return "lora-not-loaded", ""
        if shape is None:
            return "module-missing", ""
        if layer == "other":
            return "target-not-linear", f"weight {shape}"
        if self._selector.unclear(module):
            return "targets-unclear", ""
        if self._config.shell and not self._model.is_whole_layer(module):
            return "layout-not-scored", ""
        pair = [name + (" of embedding" if layer == "embedding" else "") for name in "AB"]
        if factors.keys() & {"A", "B", "A of embedding", "B of embedding"} - {*pair}:
            return "lora-not-loaded", ""
        if missing := [name for name in pair if name not in factors]:
            return "factor-missing", f"no {missing[0]}"
        a, b = (factors[name] for name in pair)
        if not all(map(decodable, factors.values())):
            return "dtype-not-read", f"A {a.dtype}, B {b.dtype}"
        if self._config.shell:  # PEFT compares all names and shapes itself
            wanted = (own for key, own in OWN_TENSORS.items() if self._config.values.get(key))
            for own in wanted:
                if not any(f".{own}" in name for name in factors):
                    return "factor-missing", f"no {own}"
            return "", ""
        return self._misfit(module, shape, layer != "linear", (a, b), factors.get("bias"))

    def _misfit(
        self,
        module: str,
        shape: tuple[int, ...],
        transposed: bool,
        pair: tuple[TensorEntry, TensorEntry],
        bias: TensorEntry | None,
    ) -> tuple[str, str]:
        """Return the rule that the shapes of plain factors break, and the evidence."""
        a, b = pair
        out_features, in_features = shape[::-1] if transposed else shape
        r = self._selector.rank(module)
        evidence = f"A {a.shape}, B {b.shape}, weight {shape}, rank {r}"
        if len(a.shape) != 2 or len(b.shape) != 2:
            return "shape-differs", evidence
        if a.shape[0] != r or b.shape[1] != r:
            return "rank-differs", evidence
        if (b.shape[0], a.shape[1]) != (out_features, in_features):
            return "shape-differs", evidence
        if self._settings.lora_bias:
            own = self._model.shape(f"{module}.bias")
            if bias is None:
                return "factor-missing", "no bias of B"
            if own != (out_features,) or bias.shape != own:
                return "shape-differs", f"bias of B {bias.shape}, of the layer {own}"
        return "", ""

    def _add(self, module: str, shape: tuple[int, ...], factors: Mapping[str, TensorEntry]) -> None:
        """Take a module whose tensors fit."""
        if f"{module}.weight" not in self._model.shapes:
            self._result.put("tied-head", module)
        names = [entry.name for entry in factors.values()]
        if self._config.shell:
            layer = shell_layer(self._model, module)
            request = lora_request(self._config, self._settings, self._selector, layer, names)
            for each in merged_pieces(self._model, request):
                self._result.add(each, names, "variant")
            return
        weight = f"{module}.weight"
        layer_kind = self._model.layer(module)
        suffix = " of embedding" if layer_kind == "embedding" else ""
        a, b = factors[f"A{suffix}"], factors[f"B{suffix}"]
        scaling, rank = self._selector.scaling(module), self._selector.rank(module)
        if (bias := factors.get("bias")) is not None:
            part = Addition(tensor=bias.name, scaling=scaling)
            for each in pieces(self._model, f"{module}.bias", lambda _: part):
                self._result.add(each, [bias.name], "bias of B")
        stored = self._model.stored(weight)
        thin = not suffix and weight in self._model.shapes and self._model.is_whole(weight)
        if not thin or stored in self._result.pieces:
            for each in weight_pieces(self._model, weight, (a, b), rank=rank, scaling=scaling):
                self._result.add(each, [a.name, b.name], "factor")
            return
        transposed = layer_kind == "conv1d"
        out_features, in_features = shape[::-1] if transposed else shape
        self._result.change(stored, count_of(shape), scored=True)
        self._result.modules.append(
            LoraModule(
                module=module,
                weight=stored,
                rank=rank,
                scaling=scaling,
                out_features=out_features,
                in_features=in_features,
                transposed=transposed,
                a_name=a.name,
                b_name=b.name,
            )
        )

    def _judge_target(self, module: str) -> None:
        """Judge a targeted module that has no factors in the file."""
        shape = self._model.modules[module]
        head = self._model.head
        if module == head and not shape and not self._model.owner(f"{head}.weight"):
            self._result.put("module-missing", module)
        elif self._model.layer(module) == "other":
            self._result.put("target-not-linear", module, f"weight {shape}" if shape else "")
        else:
            self._result.put("module-without-tensors", module)
