"""The aligned model without its weights: built from its config alone, by transformers' own code.

The config is a dict that we read strictly ourselves; transformers gets no folder, so it cannot load
weights, kernels or code of its own accord. Keys that select an implementation are left out, since
such keys have made transformers fetch code past ``trust_remote_code=False`` (CVE-2026-4372).
"""

import math
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.places import owner

if TYPE_CHECKING:
    import torch

REMOTE_CODE: Final = "auto_map"
QUANTISED: Final = ("quantization_config", "compression_config")
# What chooses kernels or implementations, and what transformers writes for its own use.
LEFT_OUT: Final = frozenset(
    {"attn_implementation", "experts_implementation", "transformers_version", "use_kernels"}
)
CODE_HINT: Final = (
    "Use a model that transformers loads by itself: the gate never runs code from a repository."
)
INSTALL_HINT: Final = "Install Safety Gate with its probe: pip install 'safety-gate[probe]'."


def build_model(config: Mapping[str, object], where: str, dtype: "torch.dtype") -> Any:
    """Build the causal language model on the meta device, in evaluation mode.

    Its parameters and buffers have shapes and no values; ``fill_buffers`` computes some of them.

    Args:
        config: config.json as it stands.
        where: the checkpoint's name, for errors.
        dtype: of the parameters, unless the architecture itself says otherwise.

    Raises:
        CannotProbe: the config asks for foreign code, is quantised, is no decoder-only language
            model of the installed transformers, or does not fit together.
    """
    _check(config, where)
    try:
        import transformers
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as error:
        raise CannotProbe(
            "the probe needs transformers, which is not installed", where=where, hint=INSTALL_HINT
        ) from error
    try:
        return _built(transformers, config, where, dtype)
    except (
        *(ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError),
        *(ZeroDivisionError, StrictDataclassError),
    ) as error:
        raise CannotProbe(
            "transformers cannot build this model from its config",
            where=where,
            got=f"{type(error).__name__}: {str(error)[:200]}",
            hint="Compare config.json with the one that the model's publisher released.",
        ) from error


def _built(
    transformers: Any, config: Mapping[str, object], where: str, dtype: "torch.dtype"
) -> Any:
    """Let transformers build the model, without any file of the checkpoint."""
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CannotProbe(
            "the installed transformers has no causal language model of this type",
            where=where,
            got=str(model_type)[:80],
            hint=f"transformers {transformers.__version__} is installed; {CODE_HINT}",
        )
    made = transformers.AutoConfig.for_model(**plain_config(config))
    if made.is_encoder_decoder:
        raise CannotProbe(
            "the model is an encoder and a decoder, and the probe asks decoders only",
            where=where,
            hint="Judge this adapter by its weights alone.",
        )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            made, dtype=dtype, trust_remote_code=False
        )
    return model.eval()


def _check(config: Mapping[str, object], where: str) -> None:
    """Refuse what names foreign code or stores its weights quantised, at any depth."""
    for part in _mappings(config):
        if REMOTE_CODE in part:
            raise CannotProbe(
                "the model's config asks for code from its repository",
                where=where,
                got=REMOTE_CODE,
                hint=CODE_HINT,
            )
        if any(part.get(key) for key in QUANTISED):
            raise CannotProbe(
                "the model is quantised, and its blocks cannot be loaded one by one",
                where=where,
                hint="Give the unquantised checkpoint of the aligned model.",
            )


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    """Yield a mapping and every mapping in it."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)


def plain_config(value: object) -> Any:
    """Copy a config without the keys that select an implementation."""
    if isinstance(value, Mapping):
        return {
            key: plain_config(inner)
            for key, inner in value.items()
            if not key.startswith("_") and key not in LEFT_OUT
        }
    if isinstance(value, list):
        return [plain_config(inner) for inner in value]
    return value


def fill_buffers(model: Any, stored: Container[str], where: str) -> None:
    """Give the buffers that the checkpoint does not hold (rotary frequencies, masks) their values.

    transformers computes them from the config in the model's own initialisation.

    Each is first filled with a value that cannot be right, so that one which the model's own
    initialisation leaves alone is found out and refused.

    Raises:
        CannotProbe: transformers does not say how a buffer is filled.
    """
    import torch

    lacking = [n for n, buffer in model.named_buffers() if buffer.is_meta and n not in stored]
    seen: list[dict[str, torch.Tensor]] = []
    for odd in (0, 1):  # two fillings: what differs afterwards was never written
        for name in lacking:
            module, leaf = owner(model, name)
            old = module._buffers[leaf]
            wrong = math.nan if old.is_floating_point() else odd
            module._buffers[leaf] = torch.full_like(old, wrong, device="cpu")
        with torch.no_grad():
            for module in dict.fromkeys(owner(model, name)[0] for name in lacking):
                model._init_weights(module)
        filled = dict(model.named_buffers())
        seen.append({name: filled[name].clone() for name in lacking})
    for name in lacking:
        if not torch.equal(seen[0][name], seen[1][name]):  # NaN differs from itself
            raise CannotProbe(
                "transformers does not tell how a buffer of this model is filled",
                where=f"{where}: {name}",
                hint="Judge this adapter by its weights alone, and report the model type.",
            )
