"""Prompt tuning and P-tuning: vectors before the text, and no change of any weight.

Of these keys PEFT 0.21.2 uses, once the adapter is trained, only how many vectors there are, how
long they are, and that they go before the text of a causal language model.
"""

from collections.abc import Mapping
from typing import Final

from safety_gate.adapter.keys import Check
from safety_gate.adapter.kind import count, flag, one_of, or_null
from safety_gate.records import LedgerEntry
from safety_gate.tensors import TensorFile

KINDS: Final = ("PROMPT_TUNING", "P_TUNING")
VECTORS: Final = "prompt_embeddings"  # the one tensor of the file
OWNER: Final = "vectors before the text"
TRAINING: Final = "training only"


def _text(value: object) -> bool:
    return isinstance(value, str)


def _share(value: object) -> bool:
    return type(value) in (int, float)


_DECIDING: Final[Mapping[str, Check]] = {
    "peft_type": one_of(*KINDS),
    "task_type": one_of("CAUSAL_LM"),  # else PEFT puts the vectors elsewhere, or trains a head
    "num_virtual_tokens": count,
    "token_dim": count,
    "num_transformer_submodules": one_of(1, None),
    "modules_to_save": one_of(None),
    "auto_mapping": one_of(None),
    "inference_mode": one_of(True),  # else P-tuning runs an encoder that the file does not hold
    "tokenizer_kwargs": one_of(None),
}
_IGNORED: Final[Mapping[str, Check]] = {
    "base_model_name_or_path": or_null(_text),
    "revision": or_null(_text),
    "peft_version": or_null(_text),
    "num_attention_heads": or_null(count),
    "num_layers": or_null(count),
    "prompt_tuning_init": or_null(_text),
    "prompt_tuning_init_text": or_null(_text),
    "tokenizer_name_or_path": or_null(_text),
    "encoder_reparameterization_type": or_null(_text),
    "encoder_hidden_size": or_null(count),
    "encoder_num_layers": or_null(count),
    "encoder_dropout": or_null(_share),
    "init_weights": or_null(flag),
}


def entry_of(name: str, value: object) -> LedgerEntry | None:
    """Return the ledger's line of one key of the config; None where nobody answers for it."""
    for keys, owner in ((_DECIDING, OWNER), (_IGNORED, TRAINING)):
        if name in keys and keys[name](value):
            return LedgerEntry(kind="config", name=name, owner=owner, accounted=True)
    return None


def is_prompted(values: Mapping[str, object], tensors: TensorFile | None) -> bool:
    """Tell whether config and file are vectors before the text, and nothing else at all.

    Args:
        values: of adapter_config.json.
        tensors: of the adapter's file; None where it could not be read.
    """
    needed = ("peft_type", "task_type", "num_virtual_tokens", "token_dim", "inference_mode")
    if tensors is None or set(tensors.entries) != {VECTORS} or not set(needed) <= set(values):
        return False
    shape = (values["num_virtual_tokens"], values["token_dim"])
    return tensors.entries[VECTORS].shape == shape and all(
        entry_of(name, value) is not None for name, value in values.items()
    )


def tensor_entry() -> LedgerEntry:
    """Return the ledger's line of the vectors; what the model says answers for them."""
    return LedgerEntry(kind="tensor", name=VECTORS, owner=OWNER, accounted=True)
