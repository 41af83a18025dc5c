"""A model without its weights: built from its config alone, by transformers' own code.

The config is a dict that we read strictly ourselves; transformers gets no folder, so it cannot load
weights, kernels or code of its own accord. Keys that select an implementation are left out, since
such keys have made transformers fetch code past ``trust_remote_code=False`` (CVE-2026-4372).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from safety_gate.errors import GateError
from safety_gate.naming.failure import NamesUnknown

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
INSTALL_HINT: Final = "Install Safety Gate with its dependencies: pip install safety-gate."


def build_model(  # noqa: PLR0913
    config: Mapping[str, object],
    where: str,
    dtype: "torch.dtype",
    *,
    error: type[GateError] = NamesUnknown,
    only_decoders: bool = False,
    dequantised: bool = True,
) -> Any:
    """Build a language model on the meta device: its parameters have shapes and no values.

    Args:
        config: config.json as it stands.
        where: the checkpoint's name, for errors.
        dtype: of the parameters, unless the architecture itself says otherwise.
        error: what is raised.
        only_decoders: refuse all but decoder-only language models.
        dequantised: the weights will be had dequantised, so what the config says of that is
            left out; else a quantised model is refused.

    Raises:
        GateError: of the class ``error``: the config asks for foreign code, is no language model
            of the installed transformers, or does not fit together.
    """
    _check(config, where, error, dequantised=dequantised)
    try:
        import transformers
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as cause:
        what = "transformers is needed to build this model, and is not installed"
        raise error(what, where=where, hint=INSTALL_HINT) from cause
    auto = _auto_class(config, only_decoders=only_decoders)
    if auto is None:
        kind = "causal language model" if only_decoders else "language model"
        raise error(
            f"the installed transformers has no {kind} of this type",
            where=where,
            got=str(config.get("model_type"))[:80],
            hint=f"transformers {transformers.__version__} is installed; {CODE_HINT}",
        )
    try:
        model = _built(transformers, auto, config, dtype)
    except (
        *(ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError),
        *(ZeroDivisionError, IndexError, StrictDataclassError),
    ) as cause:
        raise error(
            "transformers cannot build this model from its config",
            where=where,
            got=f"{type(cause).__name__}: {str(cause)[:200]}",
            hint="Compare config.json with the one that the model's publisher released.",
        ) from cause
    if only_decoders and model.config.is_encoder_decoder:
        what = "the model is an encoder and a decoder, and the probe asks decoders only"
        raise error(what, where=where, hint="Judge this adapter by its weights alone.")
    return model


def _auto_class(config: Mapping[str, object], *, only_decoders: bool) -> str | None:
    """Return the class of transformers that builds the model: the one its config names, if known.

    Names of classes are only compared with transformers' own lists, never looked up.
    """
    from transformers.models.auto import modeling_auto

    model_type = config.get("model_type")
    tables = {
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    able = [name for name, table in tables.items() if model_type in table]
    if only_decoders:
        return next((name for name in able if name == "AutoModelForCausalLM"), None)
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    fitting = [name for name in able if first in _classes(tables[name][model_type])]
    return next(iter((*fitting, *able)), None)


def _classes(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _built(transformers: Any, auto: str, config: Mapping[str, object], dtype: "torch.dtype") -> Any:
    """Let transformers build the model, without any file of the checkpoint."""
    import torch

    made = transformers.AutoConfig.for_model(**plain_config(config))
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(made, dtype=dtype, trust_remote_code=False)
    return model.eval()


def _check(
    config: Mapping[str, object], where: str, error: type[GateError], *, dequantised: bool
) -> None:
    """Refuse what names foreign code, at any depth."""
    for part in _mappings(config):
        if REMOTE_CODE in part:
            raise error(
                "the model's config asks for code from its repository",
                where=where,
                got=REMOTE_CODE,
                hint=CODE_HINT,
            )
        if not dequantised and any(part.get(key) for key in QUANTISED):
            raise error(
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
            if not key.startswith("_") and key not in LEFT_OUT and key not in QUANTISED
        }
    if isinstance(value, list):
        return [plain_config(inner) for inner in value]
    return value
