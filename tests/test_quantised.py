"""Quantised checkpoints: every format against the library that wrote it, or hand arithmetic."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import save_file

from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import BadCheckpoint
from safety_gate.sources.folder import FolderSource

MODULE = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{MODULE}.weight"
Tensors = dict[str, torch.Tensor]


def drawn(*shape: int, seed: int = 3, scale: float = 0.05) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(high: int, *shape: int, seed: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, shape, generator=generator, dtype=torch.int64)


def write(folder: Path, tensors: Mapping[str, torch.Tensor], **quantisation: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    beside = {"model.norm.weight": torch.ones(4)}  # never quantised
    save_file(
        {k: v.contiguous() for k, v in tensors.items()} | beside, folder / "model.safetensors"
    )
    config = {"model_type": "llama", "quantization_config": quantisation}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read_whole(folder: Path, *, height: int = 7) -> torch.Tensor:
    """Read the quantised weight in blocks of rows that fit no block of any format."""
    with closing(FolderSource(folder)) as source:
        checkpoint = Checkpoint.open(source, "aligned")
        assert checkpoint.quantised is not None
        assert not checkpoint.quantised.refused
        assert checkpoint.names == (WEIGHT, "model.norm.weight")  # the parts have no names
        rows = checkpoint.shape(WEIGHT)[0]
        scratch = torch.empty(checkpoint.scratch_bytes(WEIGHT, height), dtype=torch.uint8)
        blocks = [
            checkpoint.rows(WEIGHT, start, min(start + height, rows), scratch).clone()
            for start in range(0, rows, height)
        ]
        return torch.cat(blocks)


def refusal(folder: Path) -> str:
    """Return why a checkpoint is not read: an error, or the reason that it carries."""
    with closing(FolderSource(folder)) as source:
        try:
            found = Checkpoint.open(source, "aligned").quantised
        except BadCheckpoint as error:
            return str(error)
        assert found is not None
        assert found.refused
        return found.refused


# ---- bitsandbytes, against its own code


def four_bits(weight: torch.Tensor, *, nested: bool, **options: Any) -> tuple[Tensors, Any, Any]:
    packed, state = bnb.quantize_4bit(weight, compress_statistics=nested, **options)
    tensors = {WEIGHT: packed}
    tensors |= {f"{WEIGHT}.{k}": v for k, v in state.as_dict(packed=True).items()}
    return tensors, packed, state


def dequantised(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Dequantise by bitsandbytes' portable code.

    Its vector code for the CPU starts a new block in every row, which is another matrix where a
    block ends inside a row; the portable code and the CUDA kernels do not.
    """
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
    code = bnb.get_4bit_type(state.quant_type, device="cpu")
    plain = getattr(_dequantize_4bit_compute, "__wrapped__", _dequantize_4bit_compute)
    found = plain(
        packed.view(torch.uint8).reshape(-1),
        absmax,
        code,
        state.blocksize,
        state.shape,
        state.dtype,
    )
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "double-quant"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "blocksize", "dtype"),
    [
        ((40, 96), 64, torch.bfloat16),
        ((9, 33), 32, torch.float32),
        ((300, 128), 64, torch.float16),
        ((20, 70), 256, torch.float32),
        ((24, 128), 64, torch.bfloat16),
    ],
)
def test_4bit_equals_bitsandbytes(  # noqa: PLR0913
    shape: tuple[int, int],
    blocksize: int,
    quant_type: str,
    nested: bool,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    weight = drawn(*shape).to(dtype)
    tensors, packed, state = four_bits(
        weight, nested=nested, quant_type=quant_type, blocksize=blocksize
    )
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    ours = read_whole(folder)
    assert ours.dtype == dtype
    assert torch.equal(ours, dequantised(packed, state))
    if shape[1] % blocksize == 0:  # its vector code may round the last bit another way
        quick = bnb.dequantize_4bit(packed, state)
        assert torch.allclose(ours.float(), quick.float(), rtol=2**-7, atol=1e-7)


def test_codes_may_be_stored_as_another_dtype(tmp_path: Path) -> None:
    weight = drawn(16, 64)
    plain, packed, state = four_bits(weight, nested=False, quant_type="nf4")
    wide, *_ = four_bits(weight, nested=False, quant_type="nf4", quant_storage=torch.bfloat16)
    assert wide[WEIGHT].dtype == torch.bfloat16
    method = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    ours = read_whole(write(tmp_path / "wide", wide, **method))
    assert torch.equal(ours, read_whole(write(tmp_path / "plain", plain, **method)))
    assert torch.equal(ours, dequantised(packed, state))


def test_8bit_equals_bitsandbytes(tmp_path: Path) -> None:
    weight = drawn(40, 96).half()
    packed, scales, _ = bnb.int8_vectorwise_quant(weight)
    tensors = {
        WEIGHT: packed,
        f"{MODULE}.SCB": scales,
        f"{MODULE}.weight_format": torch.zeros((), dtype=torch.uint8),
    }
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_8bit=True)
    assert torch.equal(read_whole(folder), bnb.int8_vectorwise_dequant(packed, scales))


# ---- GPTQ and AWQ: packed here by their public definitions, from numbers that the test knows


def stream(values: list[int], bits: int) -> list[int]:
    """Pack integers into words of 32 bits, as one long binary number, lowest bits first."""
    whole = sum(value << (bits * at) for at, value in enumerate(values))
    words = -(-len(values) * bits // 32)
    unsigned = [(whole >> (32 * at)) & 0xFFFFFFFF for at in range(words)]
    return [word - (1 << 32) if word >> 31 else word for word in unsigned]


def by_columns(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return (rows * bits / 32, columns): each column is a stream."""
    columns = [stream(column, bits) for column in values.T.tolist()]
    return torch.tensor(columns, dtype=torch.int32).T


def by_rows(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return (rows, columns * bits / 32): each row is a stream."""
    return torch.tensor([stream(row, bits) for row in values.tolist()], dtype=torch.int32)


def gptq(  # noqa: PLR0913
    bits: int,
    *,
    inputs: int = 64,
    out: int = 32,
    groups: int = 4,
    group_size: int = 16,
    shift: int = 1,
    shuffled: bool,
) -> tuple[Tensors, torch.Tensor]:
    """Return the tensors of a GPTQ matrix, and the matrix by the definition, in float64."""
    number = numbers(2**bits, inputs, out)
    zeros = shift + numbers(2**bits - 1, groups, out, seed=5)
    scales = (0.01 + drawn(groups, out, seed=6).abs()).half()
    group = torch.arange(inputs) // (group_size if group_size > 0 else inputs)
    if shuffled:  # desc_act: inputs in the order of their activations
        group = group[torch.randperm(inputs, generator=torch.Generator().manual_seed(7))]
    tensors = {
        f"{MODULE}.qweight": by_columns(number, bits),
        f"{MODULE}.qzeros": by_rows(zeros - shift, bits),
        f"{MODULE}.scales": scales,
        f"{MODULE}.g_idx": group.int(),
    }
    return tensors, (scales.double()[group] * (number - zeros[group])).T


@pytest.mark.parametrize("shuffled", [False, True], ids=["in-order", "desc_act"])
@pytest.mark.parametrize(("format_name", "shift"), [("gptq", 1), ("gptq_v2", 0), (None, 1)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_by_its_definition(
    bits: int, format_name: str | None, shift: int, shuffled: bool, tmp_path: Path
) -> None:
    tensors, expected = gptq(bits, shift=shift, shuffled=shuffled)
    named = {} if format_name is None else {"checkpoint_format": format_name}
    folder = write(
        tmp_path, tensors, quant_method="gptq", bits=bits, group_size=16, desc_act=shuffled, **named
    )
    assert torch.equal(read_whole(folder).double(), expected)


@pytest.mark.parametrize(("group_size", "groups"), [(16, 4), (-1, 1), (24, 3), (20, 4)])
def test_gptq_without_group_indices(group_size: int, groups: int, tmp_path: Path) -> None:
    tensors, expected = gptq(4, groups=groups, group_size=group_size, shuffled=False)
    del tensors[f"{MODULE}.g_idx"]
    folder = write(tmp_path, tensors, quant_method="gptq", bits=4, group_size=group_size)
    assert torch.equal(read_whole(folder).double(), expected)


def test_gptq_word_by_hand(tmp_path: Path) -> None:
    """0x87654321 holds codes 1 to 8 from its low end; zero 7 is stored as 6, the scale is 0.5."""
    tensors = {
        f"{MODULE}.qweight": torch.tensor([[0x87654321 - (1 << 32)] * 8], dtype=torch.int32),
        f"{MODULE}.qzeros": torch.tensor([[0x66666666]], dtype=torch.int32),
        f"{MODULE}.scales": torch.full((1, 8), 0.5).half(),
    }
    folder = write(tmp_path, tensors, quant_method="gptq", bits=4, group_size=8)
    expected = [-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5]
    assert read_whole(folder).tolist() == [expected] * 8


def test_gptq_zero_that_readers_disagree_about_is_refused(tmp_path: Path) -> None:
    tensors, _ = gptq(4, shuffled=False)
    tensors[f"{MODULE}.qzeros"][1, 2] = -1  # eight times 15: zero 0, or 16?
    folder = write(tmp_path, tensors, quant_method="gptq", bits=4, group_size=16)
    with pytest.raises(BadCheckpoint, match="readers of this format disagree"):
        read_whole(folder)
    again = {"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"}
    read_whole(write(tmp_path / "v2", tensors, **again))  # where 15 is 15


def test_awq_by_its_definition(tmp_path: Path) -> None:
    inputs, out, groups = 48, 40, 3
    number, zeros = numbers(16, inputs, out), numbers(16, groups, out, seed=5)
    scales = (0.01 + drawn(groups, out, seed=6).abs()).half()
    group = torch.arange(inputs) // (inputs // groups)
    order = [8 * word + at for word in range(out // 8) for at in (0, 2, 4, 6, 1, 3, 5, 7)]
    tensors = {
        f"{MODULE}.qweight": by_rows(number[:, order], 4),
        f"{MODULE}.qzeros": by_rows(zeros[:, order], 4),
        f"{MODULE}.scales": scales,
    }
    folder = write(
        tmp_path,
        tensors,
        quant_method="awq",
        bits=4,
        group_size=16,
        version="gemm",
        zero_point=True,
    )
    expected = (scales.double()[group] * (number - zeros[group])).T
    assert torch.equal(read_whole(folder).double(), expected)


def test_awq_word_by_hand(tmp_path: Path) -> None:
    """0x75316420 holds outputs 0 to 7 as themselves: 0, 2, 4, 6, 1, 3, 5, 7 from its low end."""
    tensors = {
        f"{MODULE}.qweight": torch.full((2, 1), 0x75316420, dtype=torch.int32),
        f"{MODULE}.qzeros": torch.full((1, 1), 0x11111111, dtype=torch.int32),
        f"{MODULE}.scales": torch.full((1, 8), 2.0).half(),
    }
    folder = write(tmp_path, tensors, quant_method="awq", bits=4, group_size=-1)
    assert read_whole(folder).T.tolist() == [[2.0 * (n - 1) for n in range(8)]] * 2


# ---- float8 and int8 with scales, against transformers' and compressed-tensors' own code


@pytest.mark.parametrize("shape", [(96, 64), (64, 32)])
def test_fp8_blocks_equal_transformers(shape: tuple[int, int], tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = drawn(*shape, scale=40.0).to(torch.float8_e4m3fn)
    scales = 0.01 + drawn(shape[0] // 32, shape[1] // 32, seed=8).abs()
    tensors = {WEIGHT: codes, f"{MODULE}.weight_scale_inv": scales}
    folder = write(tmp_path, tensors, quant_method="fp8", weight_block_size=[32, 32], fmt="e4m3")
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    assert torch.equal(read_whole(folder), expected)


def test_fp8_blocks_that_are_cut_off(tmp_path: Path) -> None:
    """The last block of a row or column may be smaller; numpy repeats the scales instead."""
    codes = drawn(50, 40, scale=40.0).to(torch.float8_e4m3fn)
    scales = 0.01 + drawn(2, 2, seed=8).abs()
    tensors = {WEIGHT: codes, f"{MODULE}.weight_scale_inv": scales.bfloat16()}
    folder = write(tmp_path, tensors, quant_method="fp8", weight_block_size=[32, 32])
    spread = np.kron(scales.bfloat16().float().numpy(), np.ones((32, 32), np.float32))[:50, :40]
    expected = codes.float().numpy() * spread
    assert np.array_equal(read_whole(folder).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_with_one_scale(dtype: torch.dtype, tmp_path: Path) -> None:
    codes = drawn(24, 16, scale=40.0).to(dtype)
    scale = torch.tensor(0.0123)
    tensors = {WEIGHT: codes, f"{MODULE}.weight_scale_inv": scale}
    folder = write(tmp_path, tensors, quant_method="fp8", activation_scheme="dynamic")
    assert torch.equal(read_whole(folder), codes.float() * scale)


def test_fbgemm_fp8_has_one_scale_a_row(tmp_path: Path) -> None:
    codes = drawn(24, 16, scale=40.0).to(torch.float8_e4m3fn)
    scales = 0.01 + drawn(24, 1, seed=8).abs()
    tensors = {WEIGHT: codes, f"{MODULE}.weight_scale": scales}
    folder = write(tmp_path, tensors, quant_method="fbgemm_fp8", activation_scale_ub=1200.0)
    assert torch.equal(read_whole(folder), codes.float() * scales)


# ---- compressed-tensors, against its own code


def compressed(
    scheme: dict[str, object], stored: str, weight: torch.Tensor, *parts: torch.Tensor
) -> tuple[Tensors, torch.Tensor, dict[str, object]]:
    """Return the tensors that compressed-tensors writes, what it reads of them, and the config."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs.model_validate(scheme)
    whole = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(stored)
    given = dict(
        zip(("weight", "weight_scale", "weight_zero_point"), (weight, *parts), strict=False)
    )
    packed = compressor.compress(given, whole)
    config: dict[str, object] = {
        "quant_method": "compressed-tensors",
        "format": stored,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}},
        "quantization_status": "compressed",
    }
    names = {f"{MODULE}.{name}": tensor for name, tensor in packed.items()}
    return names, compressor.decompress(packed, whole)["weight"], config


SCHEMES = {
    "float8 a row": ({"num_bits": 8, "type": "float", "strategy": "channel"}, (24, 1), 448.0),
    "float8 whole": ({"num_bits": 8, "type": "float", "strategy": "tensor"}, (1,), 448.0),
    "int8 a row": ({"num_bits": 8, "type": "int", "strategy": "channel"}, (24, 1), 127.0),
}


@pytest.mark.parametrize("kind", SCHEMES)
def test_8_bits_equal_compressed_tensors(kind: str, tmp_path: Path) -> None:
    scheme, shape, largest = SCHEMES[kind]
    weight = drawn(24, 64)
    scale = weight.abs().amax(dim=1, keepdim=True) if len(shape) == 2 else weight.abs().max()[None]
    stored = "float-quantized" if scheme["type"] == "float" else "int-quantized"
    tensors, expected, config = compressed(scheme, stored, weight, scale / largest)
    assert tensors[WEIGHT].element_size() == 1
    assert torch.equal(read_whole(write(tmp_path, tensors, **config)), expected)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_integers_equal_compressed_tensors(
    bits: int, symmetric: bool, tmp_path: Path
) -> None:
    scheme = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 16}
    weight = drawn(24, 64)
    scale = weight.view(24, 4, 16).abs().amax(dim=2) / (2 ** (bits - 1) - 1)
    zeros = (numbers(7, 24, 4) - 3).to(torch.int8)
    tensors, expected, config = compressed(
        scheme | {"symmetric": symmetric},
        "pack-quantized",
        weight,
        scale,
        *(() if symmetric else (zeros,)),
    )
    assert torch.equal(read_whole(write(tmp_path, tensors, **config)), expected)


# ---- what is not known is refused by name


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"checkpoint_format": "marlin"}, "order of a kernel"),
        ({"pack_dtype": "int16"}, "other words than int32"),
        ({"rotation": "hadamard"}, "the key rotation, which is not known"),
        ({"bits": True}, "bits"),
        ({"group_size": 0}, "group_size"),
        ({"quant_method": "exl2"}, "method is not known"),
    ],
)
def test_a_config_that_says_more_is_refused(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    tensors, _ = gptq(4, shuffled=False)
    assert what in refusal(write(tmp_path, tensors, **(GPTQ | changes)))


@pytest.mark.parametrize(
    ("part", "value", "what"),
    [
        ("qzeros", None, "a part of it is missing"),
        ("qzeros", torch.zeros(3, 4, dtype=torch.int32), "another shape"),
        ("scales", torch.zeros(4, 32, dtype=torch.int32), "another dtype"),
        ("scales", torch.zeros(4, 31).half(), "codes and scales disagree"),
        ("g_idx", torch.zeros(63, dtype=torch.int32), "another shape"),
        ("weight", torch.zeros(32, 64), "plain and quantised"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    part: str, value: torch.Tensor | None, what: str, tmp_path: Path
) -> None:
    tensors, _ = gptq(4, shuffled=False)
    name = f"{MODULE}.{part}"
    tensors = {k: v for k, v in tensors.items() if k != name}
    if value is not None:
        tensors[name] = value
    assert what in refusal(write(tmp_path, tensors, **GPTQ))


def test_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    tensors, _ = gptq(4, shuffled=False)
    tensors[f"{MODULE}.g_idx"][5] = 4
    with pytest.raises(BadCheckpoint, match="a group that is not there"):
        read_whole(write(tmp_path, tensors, **GPTQ))


def test_a_table_of_its_own_is_refused(tmp_path: Path) -> None:
    tensors, *_ = four_bits(drawn(16, 64), nested=False, quant_type="nf4")
    tensors[f"{WEIGHT}.quant_map"][3] += 0.01  # kernels would go on using theirs
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    assert "not that of its format" in refusal(folder)


def test_rows_in_a_processors_order_are_refused(tmp_path: Path) -> None:
    tensors = {
        WEIGHT: torch.zeros(4, 4, dtype=torch.int8),
        f"{MODULE}.SCB": torch.ones(4),
        f"{MODULE}.weight_format": torch.ones((), dtype=torch.uint8),
    }
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_8bit=True)
    assert "order of a processor" in refusal(folder)


def test_layers_that_quantisers_turn_round_are_refused(tmp_path: Path) -> None:
    tensors, _ = gptq(4, shuffled=False)
    folder = write(tmp_path, tensors, **GPTQ)
    config = {"model_type": "gpt2", "quantization_config": GPTQ}
    (folder / "config.json").write_text(json.dumps(config))
    assert "turned round" in refusal(folder)


# ---- what rounding is expected to have added


def test_rounding_is_foretold_for_integers(tmp_path: Path) -> None:
    """Round a smooth weight to 8 bits, and compare the errors with what the codes foretell."""
    weight = drawn(64, 96).half()
    packed, scales, _ = bnb.int8_vectorwise_quant(weight)
    tensors = {WEIGHT: packed, f"{MODULE}.SCB": scales}
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_8bit=True)
    error = float((read_whole(folder) - weight.float()).square().sum())
    assert _foretold(folder) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_rounding_is_foretold_for_4_bits(quant_type: str, tmp_path: Path) -> None:
    weight = drawn(64, 96)
    tensors, *_ = four_bits(weight, nested=False, quant_type=quant_type)
    folder = write(tmp_path, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    error = float((read_whole(folder) - weight).square().sum())
    assert _foretold(folder) == pytest.approx(error, rel=0.25)  # a bell is not flat in a step


def test_rounding_is_foretold_for_float8(tmp_path: Path) -> None:
    weight = drawn(64, 96, scale=1.0)
    codes = weight.to(torch.float8_e4m3fn)
    tensors = {WEIGHT: codes, f"{MODULE}.weight_scale_inv": torch.tensor(1.0)}
    folder = write(tmp_path, tensors, quant_method="fp8")
    error = float((codes.float() - weight).square().sum())
    assert _foretold(folder) == pytest.approx(error, rel=0.1)


def _foretold(folder: Path) -> float:
    with closing(FolderSource(folder)) as source:
        weight = Checkpoint.open(source, "aligned").weight(WEIGHT)
        return weight.rounding(0, weight.shape[0])
