"""What shows that base, aligned and adapter do not belong together."""

from collections.abc import Sequence

from safety_gate.adapter.ledger import Adapter
from safety_gate.checkpoint import Checkpoint
from safety_gate.outcomes import Outcome, Scored
from safety_gate.records import Finding, Place, Severity
from safety_gate.tokens import tokenizer_findings

# |V| / |W_aligned| of one matrix. Two unrelated weights of equal size have 1.41, one huge value in
# aligned alone has 1; the trained pair of examples/tiny has 0.03 to 0.07.
STEP_LIMIT = 0.9
SHARED_WEIGHTS = ("lm_head.weight", "embed_tokens.weight", "wte.weight", "embed_out.weight")


def pair_findings(base: Checkpoint, aligned: Checkpoint) -> list[Finding]:
    """Name what shows that base and aligned are not a pair that V can be the difference of."""
    place = Place(kind="checkpoint", name=aligned.source.name)
    found = []
    if base.model_type != aligned.model_type:
        found.append(
            Finding(
                rule="not-a-pair",
                severity="undecided",
                place=place,
                what="base and aligned are models of different architectures",
                got=f"base {base.model_type}, aligned {aligned.model_type}",
                expected="the same model_type in both config.json files",
                hint="Give the checkpoint that the aligned one was tuned from as --base.",
            )
        )
    found += [f for checkpoint in (base, aligned) for f in _quantised(checkpoint)]
    found += tokenizer_findings(base, aligned)
    return found


def _quantised(checkpoint: Checkpoint) -> list[Finding]:
    """Say that a checkpoint is quantised, and whether its codes are read."""
    quantised = checkpoint.quantised
    if quantised is None:
        return []
    if not quantised.refused:
        formats = {name for weight in checkpoint.weights.values() for name in weight.formats}
        return [
            Finding(
                rule="checkpoint-dequantised",
                severity="warn",
                place=Place(kind="checkpoint", name=checkpoint.source.name),
                what=f"the {checkpoint.role} checkpoint is quantised: its codes were read exactly, "
                "and the scores carry the rounding that quantisation left in its weights",
                got=", ".join(sorted(formats)),
                expected="F64, F32, F16 or BF16 weights",
                hint="Give the unquantised checkpoint where there is one.",
            )
        ]
    return [
        Finding(
            rule="checkpoint-quantised",
            severity="undecided",
            place=Place(kind="checkpoint", name=checkpoint.source.name),
            what=f"the {checkpoint.role} checkpoint is quantised, and not read: "
            f"{quantised.refused}",
            got=quantised.method,
            expected="F64, F32, F16 or BF16 weights, or a format of docs/checkpoints.md",
            hint="Give the unquantised checkpoint: its weights are what V is made of.",
        )
    ]


def step_findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Name the module with the most implausible alignment step, if any is implausible."""
    shares = {
        o.score.module: o.score.step_norm / o.score.weight_norm
        for o in outcomes
        if isinstance(o, Scored) and min(o.score.shape) > 1
    }
    beyond = {module: share for module, share in shares.items() if not share <= STEP_LIMIT}
    if not beyond:
        return []
    worst = max(beyond, key=lambda module: (beyond[module], module))
    return [
        Finding(
            rule="step-implausible",
            severity="undecided",
            place=Place(kind="module", name=worst),
            what=f"base and aligned differ too much to be a pair, in {len(beyond)} module(s)",
            got=f"a step of {beyond[worst]:.3g} of the aligned weight",
            expected=f"at most {STEP_LIMIT:g}",
            hint="Give the checkpoint that the aligned one was tuned from as --base.",
        )
    ]


def claim_findings(adapter: Adapter, base: Checkpoint, aligned: Checkpoint) -> list[Finding]:
    """Compare the model that the adapter names with the one it is judged on; never follow it.

    Only names are there to compare. A folder's name says little, so a folder can show that base
    and aligned were swapped, and nothing else; a repository on the Hub has to be the one claimed.
    """
    claim = adapter.fact.claimed_base.casefold()
    names = {c.role: c.source.name.casefold() for c in (base, aligned)}
    last = {role: name.rstrip("/").rsplit("/", 1)[-1] for role, name in names.items()}
    commit = aligned.fact(hash_files=False).revision
    is_remote = len(commit) == 40 and "/" in names["aligned"]
    swapped = claim.rsplit("/", 1)[-1] == last["base"] != last["aligned"]
    if not swapped and not (is_remote and claim != names["aligned"]):
        return []
    severity: Severity = "undecided"
    return [
        Finding(
            rule="claimed-base-differs",
            severity=severity,
            place=Place(kind="config", name="base_model_name_or_path"),
            what="the adapter says that it was trained on another model than --aligned",
            got=adapter.fact.claimed_base,
            expected="the name of the aligned checkpoint",
            hint="Give the model that the adapter was trained on as --aligned.",
        )
    ]


def tied_findings(adapter: Adapter, aligned: Checkpoint) -> list[Finding]:
    """Name a change of a weight that the model uses in two places."""
    if aligned.tie_word_embeddings is False:
        return []
    heads = [name for name in aligned.names if name.endswith("lm_head.weight")]
    if aligned.tie_word_embeddings is None and heads:
        return []  # written beside the embedding, and the config does not tie them
    changed = [c.name for c in adapter.changed if c.name.endswith(SHARED_WEIGHTS)]
    if not changed:
        return []
    return [
        Finding(
            rule="tied-weights",
            severity="undecided",
            place=Place(kind="tensor", name=changed[0]),
            what="the adapter changes a weight that the model shares between input and output",
            hint="Leave lm_head and the embedding out of target_modules, or untie the model.",
        )
    ]
