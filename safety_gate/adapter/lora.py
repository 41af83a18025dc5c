"""The tensors of a LoRA adapter: each is a factor of a module that PEFT wraps, or a finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from safety_gate.adapter.architecture import (
    EMBEDDINGS,
    HEAD,
    SAVED_WITH_EMBEDDINGS,
    candidates,
    layer_of,
    tied_head,
)
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.remark import remark_on_all
from safety_gate.adapter.rules import TENSOR_RULES
from safety_gate.adapter.targets import Selector
from safety_gate.records import Finding, LedgerEntry
from safety_gate.tensors import TensorEntry, TensorFile, decodable

PREFIX = "base_model.model."
INNER = (".original_module.", ".modules_to_save.")  # PEFT's own names inside a saved module
EMBEDDED = ("lora_embedding_A", "lora_embedding_B")
FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraModule:
    """One weight that the adapter changes by scaling * B @ A."""

    module: str  # module path in the aligned model
    weight: str  # name of its weight in the aligned checkpoint
    rank: int
    scaling: float  # as PEFT computes it, sign included
    out_features: int
    in_features: int
    transposed: bool  # the checkpoint stores the weight (in, out), as Conv1D does
    a_name: str  # tensor (rank, in)
    b_name: str  # tensor (out, rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One parameter of the model that the adapter changes."""

    name: str  # in the aligned checkpoint, as far as it is there
    elements: int
    scored: bool


@dataclass(slots=True)
class Sorted:
    """The tensors with their owners."""

    modules: list[LoraModule] = field(default_factory=list)
    changes: dict[str, Change] = field(default_factory=dict)  # by parameter name
    owners: dict[str, str] = field(default_factory=dict)  # tensor -> owner, where one vouches
    groups: dict[str, list[str]] = field(default_factory=dict)  # rule -> names
    got: dict[str, str] = field(default_factory=dict)  # rule -> what the first name has

    def put(self, rule: str, name: str, got: str = "") -> None:
        """Note a thing under the rule that it breaks."""
        names = self.groups.setdefault(rule, [])
        if got and (not names or name < min(names)):
            self.got[rule] = got
        names.append(name)

    def change(self, name: str, elements: int, *, scored: bool = False) -> None:
        """Note a changed parameter; once unscored, it stays so."""
        before = self.changes.get(name)
        kept = scored and (before is None or before.scored)
        self.changes[name] = Change(name=name, elements=elements, scored=kept)

    def findings(self) -> list[Finding]:
        """Return one finding per rule."""
        found = []
        for rule, names in self.groups.items():
            severity, kind, what, hint = TENSOR_RULES[rule]
            got = self.got.get(rule, "")
            found += remark_on_all(rule, severity, (kind, names), what, hint=hint, got=got)
        return found

    def entries(self, file: TensorFile | None) -> list[LedgerEntry]:
        """Return the ledger's lines for all tensors; none for a file that could not be read."""
        scored = {name for m in self.modules for name in (m.a_name, m.b_name)}
        return [
            LedgerEntry(
                kind="tensor",
                name=name,
                owner=self.owners.get(name, "nobody"),
                accounted=name in scored,
                scored=name in scored,
            )
            for name in (file.entries if file else ())
        ]


def sort_tensors(
    file: TensorFile,
    config: Config,
    shapes: Mapping[str, tuple[int, ...]],
    model_type: str | None,
) -> Sorted:
    """Give every tensor an owner or a finding.

    Raises:
        PatternRefused: a regular expression of the config cannot be judged.
    """
    if config.settings is None:
        return sort_without_config(file, config, shapes)
    return _Sorter(file, config, config.settings, shapes, model_type).run()


def sort_without_config(
    file: TensorFile, config: Config, shapes: Mapping[str, tuple[int, ...]]
) -> Sorted:
    """Note what would overwrite the model, and what the names say is changed, unscored."""
    result = Sorted()
    judged = config.other_kind  # named as a whole by a finding of its own
    for name in file.entries:
        stem = name.removeprefix(PREFIX)
        parameter = stem.replace(".base_layer.", ".")
        if stem != name and (parameter in shapes or parameter == f"{HEAD}.weight"):
            saved = parameter == stem and is_saved(parameter.rpartition(".")[0], config.saved)
            result.put("modules-to-save" if saved else "tensor-overwrites-base", name)
            result.change(parameter, _count(shapes.get(parameter, file.entries[name].shape)))
            continue
        module = stem
        while module and f"{module}.weight" not in shapes:
            module = module.rpartition(".")[0]
        if module:
            result.change(f"{module}.weight", _count(shapes[f"{module}.weight"]))
        result.owners[name] = f"{config.kind}, not scored yet" if judged else "not judged"
        if not judged:
            result.put("tensor-unjudged", name)
    return result


def _count(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    total = 1
    for size in shape:
        total *= size
    return total


def is_saved(module: str, saved: Sequence[str]) -> bool:
    """Tell whether modules_to_save covers the module; PEFT matches by plain endings."""
    while module:
        if any(module.endswith(name) for name in saved):
            return True
        module = module.rpartition(".")[0]
    return False


class _Sorter:
    """Sorts the tensors of one LoRA file; one use only."""

    def __init__(
        self,
        file: TensorFile,
        config: Config,
        settings: Settings,
        shapes: Mapping[str, tuple[int, ...]],
        model_type: str | None,
    ) -> None:
        self._file = file
        self._config = config
        self._settings = settings
        self._shapes = shapes
        self._model_type = model_type
        self._known = candidates(shapes)
        self._selector = Selector(settings, self._known, model_type)
        self._result = Sorted()
        self._factors: dict[str, dict[str, TensorEntry]] = {}
        self._embedded: set[str] = set()  # modules with embedding factors

    def run(self) -> Sorted:
        """Sort all tensors, then judge all modules."""
        targeted = {module for module in self._known if self._selector.wraps(module)}
        for name, entry in self._file.entries.items():
            self._sort(name, entry, targeted)
        for module, factors in sorted(self._factors.items()):
            self._judge(module, factors)
        for module in targeted - self._factors.keys():
            self._judge_target(module)
        return self._result

    def _sort(self, name: str, entry: TensorEntry, targeted: set[str]) -> None:
        """Find the owner of one tensor."""
        stem = name.removeprefix(PREFIX)
        if stem == name:  # PEFT would not find a place for it
            self._result.put("tensor-unexplained", name)
            return
        for suffix, factor in FACTORS.items():
            if stem.endswith(suffix):
                module = stem.removesuffix(suffix)
                self._factors.setdefault(module, {})[factor] = entry
                self._result.owners[name] = f"factor {factor}"
                return
        module, _, last = stem.rpartition(".")
        if last in EMBEDDED and self._is_embedding(module, targeted):
            self._embedded.add(module)
            self._result.owners[name] = "embedding factor, not scored yet"
        elif self._config.variants and (
            ".lora_" in stem or stem.endswith("trainable_tokens_delta")
        ):
            self._result.owners[name] = "variant, not scored yet"
            self._note_variant(stem)
        else:
            self._sort_parameter(name, stem, entry, targeted)

    def _note_variant(self, stem: str) -> None:
        """Note which parameter a variant's own tensor changes."""
        module = stem.partition(".lora_")[0].removesuffix(".token_adapter.trainable_tokens_delta")
        part = "bias" if stem.endswith(".lora_B.bias") else "weight"
        if (name := f"{module}.{part}") in self._shapes:
            self._result.change(name, _count(self._shapes[name]))

    def _sort_parameter(self, name: str, stem: str, entry: TensorEntry, targeted: set[str]) -> None:
        """Judge a tensor that has the name of a parameter of the model, or of nothing."""
        parameter = stem.replace(".base_layer.", ".")
        module, _, part = parameter.rpartition(".")
        wrapped = parameter != stem
        is_copy = wrapped and module.rpartition(".")[2] in SAVED_WITH_EMBEDDINGS | EMBEDDINGS
        if (
            not wrapped
            and not any(part in stem for part in INNER)
            and is_saved(module, self._settings.saved)
        ):
            rule, owner = "modules-to-save", "module saved whole, not scored yet"
        elif self._is_trained_bias(module, part, targeted) and parameter in self._shapes:
            rule, owner = "bias-trained", "trained bias, not scored yet"
        elif is_copy and module in targeted and part == "weight":
            rule, owner = "embedding-copy", "copy of an embedding, not scored yet"
        elif parameter in self._shapes or parameter == f"{HEAD}.weight":
            rule, owner = "tensor-overwrites-base", "nobody"
        else:
            self._result.put("tensor-unexplained", name)
            return
        self._result.put(rule, name)
        self._result.owners[name] = owner
        self._result.change(parameter, _count(self._shapes.get(parameter, entry.shape)))

    def _is_embedding(self, module: str, targeted: set[str]) -> bool:
        """Tell whether PEFT puts embedding factors on the module."""
        shape = self._shapes.get(f"{module}.weight", ())
        return module in targeted and layer_of(module, shape, self._model_type) == "embedding"

    def _is_trained_bias(self, module: str, part: str, targeted: set[str]) -> bool:
        """Tell whether the config's ``bias`` covers the tensor."""
        if part != "bias":
            return False
        return self._settings.bias == "all" or (
            self._settings.bias == "lora_only" and module in targeted
        )

    def _judge(self, module: str, factors: Mapping[str, TensorEntry]) -> None:
        """Judge the factors of one module; score them only when everything fits."""
        weight = f"{module}.weight"
        shape = self._shapes.get(weight)
        layer = layer_of(module, shape, self._model_type) if shape else "other"
        if not self._selector.wraps(module) or layer == "embedding":
            rule, got = "lora-not-loaded", ""
        elif shape is None:
            tied = module == HEAD and tied_head(self._shapes)
            rule, got = "tied-head" if tied else "module-missing", ""
        elif layer == "other":
            rule, got = "target-not-linear", f"weight {shape}"
        elif self._selector.unclear(module):
            rule, got = "targets-unclear", ""
        else:
            rule, got = self._fault(module, shape, layer == "conv1d", factors)
        scored = not rule and not self._config.spoiled
        if rule:
            self._result.put(rule, module, got)
        if shape is not None and rule != "lora-not-loaded":
            self._result.change(weight, _count(shape), scored=scored)
        if scored and shape is not None:
            self._add(module, shape, layer == "conv1d", factors)

    def _fault(
        self,
        module: str,
        shape: tuple[int, ...],
        transposed: bool,
        factors: Mapping[str, TensorEntry],
    ) -> tuple[str, str]:
        """Return the rule that the factors of a linear layer break, and the evidence."""
        if len(factors) < 2:
            return "factor-missing", f"only {next(iter(factors))}"
        a, b = factors["A"], factors["B"]
        if not (decodable(a) and decodable(b)):
            return "dtype-not-read", f"A {a.dtype}, B {b.dtype}"
        out_features, in_features = shape[::-1] if transposed else shape
        r = self._selector.rank(module)
        evidence = f"A {a.shape}, B {b.shape}, weight {shape}, rank {r}"
        if len(a.shape) != 2 or len(b.shape) != 2:
            return "shape-differs", evidence
        if a.shape[0] != r or b.shape[1] != r:
            return "rank-differs", evidence
        if (b.shape[0], a.shape[1]) != (out_features, in_features):
            return "shape-differs", evidence
        return "", ""

    def _add(
        self,
        module: str,
        shape: tuple[int, ...],
        transposed: bool,
        factors: Mapping[str, TensorEntry],
    ) -> None:
        """Take a module whose factors fit."""
        out_features, in_features = shape[::-1] if transposed else shape
        self._result.modules.append(
            LoraModule(
                module=module,
                weight=f"{module}.weight",
                rank=self._selector.rank(module),
                scaling=self._selector.scaling(module),
                out_features=out_features,
                in_features=in_features,
                transposed=transposed,
                a_name=factors["A"].name,
                b_name=factors["B"].name,
            )
        )

    def _judge_target(self, module: str) -> None:
        """Judge a targeted module that has no factors in the file."""
        shape = self._known[module]
        layer = layer_of(module, shape, self._model_type)
        if module in self._embedded:
            self._result.put("embedding-lora", module)
            if f"{module}.weight" in self._shapes:
                self._result.change(f"{module}.weight", _count(shape))
        elif module == HEAD and not shape:
            self._result.put("tied-head", module)
        elif layer == "other":
            self._result.put("target-not-linear", module, f"weight {shape}" if shape else "")
        else:
            self._result.put("module-without-tensors", module)
