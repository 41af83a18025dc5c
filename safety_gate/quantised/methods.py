"""Which quantised format a checkpoint's config names, and whether all of what it says is known."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from safety_gate.errors import BadCheckpoint
from safety_gate.quantised.awq import find_awq
from safety_gate.quantised.bnb_4bit import find_4bit
from safety_gate.quantised.bnb_8bit import find_8bit
from safety_gate.quantised.gptq import GptqSettings, find_gptq
from safety_gate.quantised.packed import find_packed
from safety_gate.quantised.parts import Made, Tensors
from safety_gate.quantised.scaled import FLOAT8, find_scaled
from safety_gate.weights import Weight

SECTIONS = ("quantization_config", "compression_config")
# Their linear layers are stored (in, out), and quantisers turn them round: a square one would be
# compared with its own transpose.
TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
# Keys that say how weights were found, how they are multiplied, or which layers are left alone.
# The last is seen from the tensors themselves.
INERT: Mapping[str, str] = {
    "bitsandbytes": """
        _load_in_4bit _load_in_8bit load_in_4bit load_in_8bit bnb_4bit_compute_dtype
        bnb_4bit_quant_storage bnb_4bit_quant_type bnb_4bit_use_double_quant
        llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight llm_int8_skip_modules
        llm_int8_threshold
    """,
    "gptq": """
        bits group_size sym desc_act static_groups true_sequential damp_percent damp_auto_increment
        model_name_or_path model_file_base_name checkpoint_format format method meta pack_dtype
        lm_head tokenizer dataset block_name_to_quantize module_name_preceding_first_block
        modules_in_block_to_quantize modules_to_not_convert batch_size pad_token_id use_cuda_fp16
        model_seqlen use_exllama disable_exllama exllama_config max_input_length
        cache_block_outputs cache_examples_on_gpu backend act_group_aware mse
    """,
    "awq": """
        bits group_size version format zero_point sym desc_act modules_to_not_convert backend
        do_fuse fuse_max_seq_len modules_to_fuse exllama_config pack_dtype lm_head meta
    """,
    "fp8": "activation_scheme fmt weight_block_size modules_to_not_convert scale_fmt",
    "fbgemm_fp8": "activation_scale_ub modules_to_not_convert",
    "compressed-tensors": """
        config_groups format ignore quantization_status global_compression_ratio kv_cache_scheme
        version
    """,
}
GROUP_KEYS = "weights input_activations output_activations targets format"
WEIGHT_KEYS = """
    num_bits type strategy symmetric group_size block_structure dynamic observer observer_kwargs
    scale_dtype zp_dtype
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a checkpoint is quantised."""

    method: str  # as the config names it, a stranger's text
    refused: str = ""  # why its codes are not read, our own words; empty: they are


class _NotReadError(Exception):
    """The config says something that is not known; the message is our own."""


def read_weights(
    config: Mapping[str, object], tensors: Tensors
) -> tuple[Mapping[str, Weight], Quantisation | None]:
    """Return all weights by name, dequantised when read, and how they are quantised.

    Where the format is not known, tensors stand as they are; the refusal says why.

    Raises:
        BadCheckpoint: the parts of a quantised weight do not fit together.
    """
    section = _section(config)
    if section is None:
        return tensors, None
    method = _method(section)
    try:
        made, used = _found(method, section, config, tensors)
    except _NotReadError as error:
        return tensors, Quantisation(method=method, refused=str(error))
    left = {name: stored for name, stored in tensors.items() if name not in used}
    if twice := sorted(made.keys() & left.keys()):
        raise BadCheckpoint(
            "a weight is stored plain and quantised",
            where=next(iter(tensors.values())).source.name,
            got=twice[0],
            hint="Save the model again; one of the two is not its own.",
        )
    return left | made, Quantisation(method=method)


def _section(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the part of the config that speaks of quantisation; multimodal models nest it."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            for key in SECTIONS:
                if (value := part.get(key)) is not None:
                    return value if isinstance(value, Mapping) else {}
    return None


def _method(section: Mapping[str, object]) -> str:
    """Return the method by the name that transformers gives it."""
    method = section.get("quant_method")
    if isinstance(method, str) and method:
        return method
    if section.get("load_in_4bit") or section.get("load_in_8bit"):  # before the key was written
        return "bitsandbytes"
    return "an unnamed method"


def _found(
    method: str, section: Mapping[str, object], config: Mapping[str, object], tensors: Tensors
) -> tuple[Made, frozenset[str]]:
    """Find the quantised weights of a method."""
    finders: Mapping[str, Callable[[], tuple[Made, frozenset[str]]]] = {
        "bitsandbytes": lambda: _bitsandbytes(tensors),
        "gptq": lambda: find_gptq(tensors, _gptq(section)),
        "awq": lambda: find_awq(tensors, _awq(section)),
        "fp8": lambda: find_scaled(
            tensors, ".weight_scale_inv", dtypes=tuple(FLOAT8), block=_block(section)
        ),
        "fbgemm_fp8": lambda: find_scaled(
            tensors, ".weight_scale", dtypes=tuple(FLOAT8), block=None
        ),
        "compressed-tensors": lambda: _compressed(section, tensors),
    }
    if method not in finders:
        raise _NotReadError("the method is not known")
    _only_known(section, f"{INERT[method]} quant_method")
    turned = [part for part in _configs(config) if part.get("model_type") in TURNED]
    if turned:
        raise _NotReadError("the layers of this model are stored turned round when quantised")
    made, used = finders[method]()
    if not made:
        raise _NotReadError("no tensor is stored as the method says")
    return made, used


def _configs(config: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the config and the one of the text model."""
    yield config
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        yield inner


def _only_known(section: Mapping[str, object], known: str) -> None:
    """Refuse keys that are not among the known words, unless they ask for nothing."""
    words = frozenset(known.split())
    for key, value in sorted(section.items()):
        if key not in words and value not in (None, False, {}, []):
            raise _NotReadError(f"its config has the key {_shown(key)}, which is not known")


def _shown(key: str) -> str:
    """Return a stranger's key as far as it is harmless to print."""
    return "".join(c for c in key[:40] if c.isalnum() or c in "_-") or "(unreadable)"


def _integer(section: Mapping[str, object], key: str, allowed: Callable[[int], bool]) -> int:
    value = section.get(key)
    if type(value) is not int or not allowed(value):
        raise _NotReadError(f"its config has a value of {key} that is not known")
    return value


def _bitsandbytes(tensors: Tensors) -> tuple[Made, frozenset[str]]:
    four, used_by_four = find_4bit(tensors)
    eight, used_by_eight = find_8bit(tensors)
    return four | eight, used_by_four | used_by_eight


def _group_size(section: Mapping[str, object]) -> int:
    return _integer(section, "group_size", lambda size: size == -1 or 0 < size < 2**20)


def _gptq(section: Mapping[str, object]) -> GptqSettings:
    bits = _integer(section, "bits", lambda bits: bits in (2, 3, 4, 8))
    names = {section.get(key) for key in ("checkpoint_format", "format")} - {None}
    if not names:
        names = {"gptq"}
    if not names <= {"gptq", "gptq_v2"} or len(names) != 1:
        raise _NotReadError("the codes lie in the order of a kernel (checkpoint_format)")
    if section.get("pack_dtype") not in (None, "int32"):
        raise _NotReadError("codes are packed into other words than int32")
    return GptqSettings(
        bits=bits,
        group_size=_group_size(section),
        zero_shift=1 if names == {"gptq"} else 0,
    )


def _awq(section: Mapping[str, object]) -> int:
    _integer(section, "bits", lambda bits: bits == 4)
    names = {str(section.get(key)).lower() for key in ("version", "format") if section.get(key)}
    if not names <= {"gemm"}:
        raise _NotReadError("the codes lie in the order of a kernel that is not gemm")
    if section.get("zero_point") is False:
        raise _NotReadError("its config has no zero points, which gemm always has")
    return _group_size(section)


def _block(section: Mapping[str, object]) -> tuple[int, int] | None:
    if section.get("fmt") not in (None, "e4m3", "float8_e4m3fn"):
        raise _NotReadError("the numbers have another format than e4m3")
    return _sizes(section, "weight_block_size")


def _sizes(section: Mapping[str, object], key: str) -> tuple[int, int] | None:
    size = section.get(key)
    if size is None:
        return None
    if isinstance(size, list) and len(size) == 2 and all(type(s) is int and s > 0 for s in size):
        return size[0], size[1]
    raise _NotReadError(f"its config has a value of {key} that is not known")


def _compressed(section: Mapping[str, object], tensors: Tensors) -> tuple[Made, frozenset[str]]:
    """Read compressed-tensors: one scheme for all layers."""
    groups = section.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise _NotReadError("its layers are quantised in several ways")
    group = next(iter(groups.values()))
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise _NotReadError("its config does not say how weights are quantised")
    _only_known(group, GROUP_KEYS)
    _only_known(weights, WEIGHT_KEYS)
    if weights.get("dynamic") is True:
        raise _NotReadError("its weights have scales that are not stored")
    bits = _integer(weights, "num_bits", lambda bits: bits in (4, 8))
    match section.get("format"), weights.get("type"), weights.get("strategy"):
        case "pack-quantized", "int", "channel" | "group":
            return find_packed(tensors, bits)
        case _ if bits != 8 or weights.get("symmetric") is False:
            raise _NotReadError("its weights have other bits than 8, or zero points")
        case "float-quantized" | "naive-quantized", "float", "tensor" | "channel" | "block":
            dtypes: tuple[str, ...] = tuple(FLOAT8)
        case "int-quantized" | "naive-quantized", "int", "tensor" | "channel":
            dtypes = ("I8",)
        case _:
            raise _NotReadError("this format of compressed-tensors is not known")
    other = (".input_scale", ".input_zero_point", ".output_scale")
    block = _sizes(weights, "block_structure")
    return find_scaled(tensors, ".weight_scale", dtypes=dtypes, block=block, other=other)
