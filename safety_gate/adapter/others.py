"""The tensors of an adapter of another kind than LoRA: each has a module, or is a finding."""

from safety_gate.adapter.building import kind_request, merged_pieces, shell_layer
from safety_gate.adapter.config import Config, Settings
from safety_gate.adapter.kind import Kind
from safety_gate.adapter.model import Model
from safety_gate.adapter.sorting import (
    PREFIX,
    Sorted,
    count_of,
    replace_rows,
    replace_whole,
    saved_without_tensors,
    sort_parameter,
)
from safety_gate.adapter.targets import Selector
from safety_gate.tensors import TensorEntry, TensorFile

ROOT = "base_model."  # in front of tensors that belong to no module
NORM = ".ln_tuning_layers."
TOKENS = ".trainable_tokens_delta"


def sort_kind(
    file: TensorFile, config: Config, kind: Kind, settings: Settings, model: Model
) -> Sorted:
    """Give every tensor an owner or a finding.

    Raises:
        PatternRefused: a regular expression of the config cannot be judged.
    """
    return _KindSorter(file, config, kind, settings, model).run()


class _KindSorter:
    """Sorts the tensors of one file; one use only."""

    def __init__(
        self, file: TensorFile, config: Config, kind: Kind, settings: Settings, model: Model
    ) -> None:
        self._file = file
        self._config = config
        self._kind = kind
        self._settings = settings
        self._model = model
        self._result = Sorted()
        self._own: dict[str, list[str]] = {}  # module -> names of its tensors
        self._shared: list[str] = []

    def run(self) -> Sorted:
        """Sort all tensors, then ask for the merge of all modules."""
        targeted = self._targeted()
        for name, entry in self._file.entries.items():
            self._sort(name, entry, targeted)
        saved_without_tensors(self._result, self._model, self._file, self._settings.saved)
        if self._kind.road == "replace":
            return self._result
        # In the order of the model's code, where that is known.
        fit = [module for module in self._model.modules if module in targeted]
        fit = [module for module in fit if self._fits(module)]
        whole = len(fit) == len(targeted)
        if self._config.ordered and not self._model.ordered:
            whole = False
            self._result.put("order-unknown", "target_modules")
        if self._kind.road == "all" and fit and whole:
            names = [name for module in fit for name in self._own.get(module, ())]
            self._ask(fit, [*self._shared, *names])
        for module in fit:
            if self._kind.road == "each":
                self._ask([module], self._own[module])
            elif not whole:
                self._unscored(module)
        return self._result

    def _targeted(self) -> set[str]:
        """Return the modules that PEFT wraps."""
        if self._settings.targets is None:
            if "token_indices" in self._kind.passed:  # PEFT's default: the input embedding
                return {m for m in self._model.modules if self._model.layer(m) == "embedding"}
            self._result.put("targets-missing", "target_modules")
            return set()
        selector = Selector(self._settings, self._model)
        return {module for module in self._model.modules if selector.wraps(module)}

    def _sort(self, name: str, entry: TensorEntry, targeted: set[str]) -> None:
        """Find the owner of one tensor."""
        stem = name.removeprefix(PREFIX)
        if stem == name:
            shared = name.removeprefix(ROOT)
            if shared != name and shared.startswith(self._kind.shared or ("\0",)):
                self._shared.append(name)
                self._result.owners[name] = "shared state"
            else:
                self._result.put("tensor-unexplained", name)
            return
        if self._kind.road == "replace" and self._replaces(stem, entry, targeted):
            return
        module = stem
        while module and module not in targeted:
            module = module.rpartition(".")[0]
        is_parameter = stem.replace(".base_layer.", ".") in self._model.shapes
        if module and not is_parameter and self._kind.road != "replace":
            self._own.setdefault(module, []).append(name)
            self._result.owners[name] = self._config.kind
            return
        bias = self._config.values.get("bias", "none")
        sort_parameter(
            self._result,
            self._model,
            entry,
            saved=self._settings.saved,
            targeted=targeted,
            bias=str(bias),
        )

    def _replaces(self, stem: str, entry: TensorEntry, targeted: set[str]) -> bool:
        """Take new values of norms or tokens; False where the tensor is something else."""
        if NORM in stem and stem.partition(NORM)[0] in targeted and not self._tokens():
            parameter = stem.replace(NORM, ".")
            replace_whole(self._result, self._model, parameter, entry, "trained norm")
            return True
        module = stem.removesuffix(TOKENS)
        own = self._model.owner(f"{module}.weight").removesuffix(".weight")
        if module != stem and own in targeted and self._tokens():
            replace_rows(self._result, self._model, module, entry, self._tokens())
            return True
        return False

    def _tokens(self) -> tuple[int, ...]:
        """Return the trained tokens, where the kind has any."""
        found = self._config.values.get("token_indices")
        return tuple(found) if isinstance(found, list) else ()

    def _fits(self, module: str) -> bool:
        """Tell whether PEFT can be asked about a module; else note why not."""
        shape = self._model.shapes.get(f"{module}.weight")
        if shape is None or self._model.layer(module) == "other":
            missing = shape is None and module not in self._own
            self._result.put("module-missing" if missing else "target-not-linear", module)
        elif not self._model.is_whole_layer(module):
            self._result.put("layout-not-scored", module)
        elif module not in self._own and self._kind.road == "each":
            self._result.put("module-without-tensors", module)
        else:
            return True
        if shape is not None:
            self._unscored(module)
        return False

    def _unscored(self, module: str) -> None:
        """Note that a module changes, and that nobody says how."""
        shape = self._model.shapes[f"{module}.weight"]
        self._result.change(self._model.stored(f"{module}.weight"), count_of(shape))

    def _ask(self, modules: list[str], names: list[str]) -> None:
        """Add the pieces that PEFT's merge of these modules gives."""
        layers = [shell_layer(self._model, module) for module in modules]
        request = kind_request(self._config, layers, names)
        for each in merged_pieces(self._model, request):
            self._result.add(each, (), self._config.kind)
