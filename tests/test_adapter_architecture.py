"""The table of architectures and PEFT's own tables, against what transformers and PEFT hold."""

import dataclasses
import warnings
from typing import Any

import peft
import pytest
import torch
from peft.utils.constants import (
    EMBEDDING_LAYER_NAMES,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)
from peft.utils.transformers_weight_conversion import (
    _MOE_FUSED_TARGETS,
    _MOE_TARGET_MODULE_MAPPING,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.pytorch_utils import Conv1D

from safety_gate.adapter.architecture import (
    HEAD,
    KNOWN,
    OTHER_DEFAULTS,
    SAVED_WITH_EMBEDDINGS,
    layer_of,
)
from safety_gate.adapter.blueprint import is_plain
from safety_gate.adapter.experts import CONVERTED, FUSED
from safety_gate.adapter.keys import KEYS, KINDS


def built(model_type: str) -> Any:
    """Build two layers of an architecture, without memory for its weights."""
    small = {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}
    config = AutoConfig.for_model(model_type, **(small if model_type == "gpt_neo" else {}))
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if hasattr(config, name):
            setattr(config, name, 2)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    auto = AutoModelForSeq2SeqLM if model_type in ("t5", "bart") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config)


def class_of(module: Any) -> str:
    match module:
        case torch.nn.Linear():
            return "linear"
        case Conv1D():
            return "conv1d"
        case torch.nn.Embedding():
            return "embedding"
    return "other"


@pytest.mark.parametrize("model_type", KNOWN)
def test_layers_are_what_transformers_builds(model_type: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = built(model_type)
    modules = [(n, m) for n, m in model.named_modules() if hasattr(m, "weight")]
    assert modules
    for name, module in modules:
        if module.weight is not None:
            assert layer_of(name, module.weight.shape, model_type) == class_of(module), name
    head = model.get_output_embeddings()
    assert [name for name, module in modules if module is head] == [HEAD]
    assert get_checkpoint_conversion_mapping(model_type) is None
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert is_plain(shapes, model_type)
    assert not is_plain({**shapes, "layers.0.weight": (1,)}, model_type)


def test_default_targets_are_pefts() -> None:
    theirs = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    for model_type, targets in KNOWN.items():
        assert theirs.get(model_type) == (list(targets) if targets else None)
    for model_type, others in OTHER_DEFAULTS.items():
        assert theirs[model_type] == (others if isinstance(others, str) else list(others))


def test_every_key_of_lora_config_has_an_owner() -> None:
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert KEYS.keys() - fields == {"enable_lora", "merge_weights"}
    assert fields <= KEYS.keys()


def test_every_kind_of_peft_has_words() -> None:
    assert {kind.value for kind in peft.PeftType} == {*KINDS, "LORA"}


def test_embedding_names_are_pefts() -> None:
    assert set(EMBEDDING_LAYER_NAMES) == SAVED_WITH_EMBEDDINGS


def test_converted_targets_are_pefts() -> None:
    assert CONVERTED == _MOE_TARGET_MODULE_MAPPING
    for name, fused in _MOE_FUSED_TARGETS.items():
        old = [old for old, new in CONVERTED[name].items() if new == FUSED]
        assert fused == {FUSED: old}
