"""The part of adapter_config.json that ranks and scales follow from, rewritten.

Every module keeps its own scaling: a change of scale goes into B. So the factor is right also for
a server that reads r and lora_alpha and no patterns, as long as it divides the one by the other.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

PLAIN = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What PEFT must make of one module."""

    rank: int
    scaling: float


def rewritten(config: Mapping[str, object], scales: Mapping[str, Scale]) -> dict[str, object]:
    """Return the config in which PEFT finds exactly these ranks and scalings.

    Args:
        config: adapter_config.json as it was read.
        scales: every module that has factors.

    Patterns of the old config are resolved, so that no pattern matches more than its module, and
    their order means nothing (save_pretrained() sorts them). rsLoRA is written out as plain
    alphas: some servers ignore use_rslora, and the scaling of a module with a new rank would
    follow another rule there.
    """
    rank = _most_common(scale.rank for scale in scales.values())
    scaling = _most_common(scale.scaling for scale in scales.values())
    ranks = {name: scale.rank for name, scale in scales.items() if scale.rank != rank}
    alphas = {
        name: _alpha(scale)
        for name, scale in scales.items()
        if (scale.rank, scale.scaling) != (rank, scaling)
    }
    return dict(config) | {
        "r": int(rank),
        "lora_alpha": _alpha(Scale(rank=int(rank), scaling=scaling)),
        "use_rslora": False,
        "rank_pattern": _keyed(ranks, scales),
        "alpha_pattern": _keyed(alphas, scales),
    }


def _most_common(values: Iterable[float]) -> float:
    """Return the value that stands most often; of equals, the first."""
    return Counter(values).most_common(1)[0][0]


def _alpha(scale: Scale) -> float:
    """Return scaling * rank; whole numbers as int, which is what PEFT declares alpha to be."""
    alpha = scale.scaling * scale.rank
    return int(alpha) if alpha == int(alpha) else alpha


def _keyed(wanted: Mapping[str, float], modules: Collection[str]) -> dict[str, float]:
    """Give each module a key that PEFT's get_pattern_key matches with this module only."""
    return {_key(name, modules): value for name, value in wanted.items()}


def _key(name: str, modules: Collection[str]) -> str:
    r"""Return the plain name where it is unambiguous as a pattern, else an escaped whole match.

    PEFT 0.21.2 matches ``(.*\.)?(key)$``: a dot of the key stands for any character, and the key
    matches as an ending too.
    """
    if PLAIN.fullmatch(name):
        pattern = re.compile(rf"(.*\.)?({name})$")
        if [module for module in modules if pattern.match(module)] == [name]:
            return name
    return "^" + re.escape(name)
