"""Whether base and aligned mean the same tokens by the same numbers.

Rows of an embedding are joined by number, and a model tuned from another vocabulary was not tuned
from this base. Compared is what ``tokenizer.json`` says, and only where its bytes differ; a
``tokenizer.model`` can only be compared as a whole.
"""

from collections.abc import Iterator, Mapping

from safety_gate import strict_json
from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import BadCheckpoint, GateError
from safety_gate.records import Finding, Place, Severity

TOKENIZER = "tokenizer.json"
OTHERS = ("tokenizer.model", "vocab.json", "merges.txt")  # older files, compared as a whole
MAX_BYTES = 64 * 2**20  # Gemma's has 33 MB
MAX_NODES = 5_000_000  # 256,000 tokens, and as many merges of two
MAX_DEPTH = 16
PIECE = 2**20  # bytes compared at a time
SHOWN = 3
# Chat tuning renames a few reserved tokens. Two vocabularies of different origin share almost none.
MOST_RENAMED = 0.01  # of the numbers that both know


def tokenizer_findings(base: Checkpoint, aligned: Checkpoint) -> list[Finding]:
    """Say where base and aligned mean different tokens, or that it cannot be told."""
    sizes = [{entry.path: entry.size for entry in c.source.files()} for c in (base, aligned)]
    both = [name for name in (TOKENIZER, *OTHERS) if all(name in listed for listed in sizes)]
    if not both:
        return []
    if TOKENIZER not in both:
        odd = [name for name in both if not _are_equal(name, base, aligned, sizes)]
        return [_unknown(aligned, f"{odd[0]} differs")] if odd else []
    if _are_equal(TOKENIZER, base, aligned, sizes):
        return []
    try:
        tables = _table(base, sizes[0][TOKENIZER]), _table(aligned, sizes[1][TOKENIZER])
    except GateError as error:
        return [_unknown(aligned, error.what)]
    return list(_compared(tables[0], tables[1], aligned))


def _are_equal(
    name: str, base: Checkpoint, aligned: Checkpoint, sizes: list[dict[str, int]]
) -> bool:
    """Tell whether a file is the same in both."""
    size = sizes[0][name]
    if size != sizes[1][name]:
        return False
    pieces = bytearray(min(size, PIECE)), bytearray(min(size, PIECE))
    for start in range(0, size, PIECE):
        count = min(PIECE, size - start)
        for checkpoint, piece in zip((base, aligned), pieces, strict=True):
            checkpoint.source.read_into(name, start, memoryview(piece)[:count])
        if pieces[0][:count] != pieces[1][:count]:
            return False
    return True


def _table(checkpoint: Checkpoint, size: int) -> dict[int, str]:
    """Return the tokens of a checkpoint by their numbers.

    Raises:
        BadCheckpoint: tokenizer.json is too large, or has no vocabulary that we know.
        SourceError: it cannot be read.
    """
    where = f"{checkpoint.source.name}: {TOKENIZER}"
    if size > MAX_BYTES:
        raise _strange(where, "tokenizer.json is too large")
    data = bytearray(size)
    checkpoint.source.read_into(TOKENIZER, 0, memoryview(data))
    value = strict_json.parse(
        bytes(data),
        where=where,
        error=BadCheckpoint,
        max_bytes=MAX_BYTES,
        max_depth=MAX_DEPTH,
        max_nodes=MAX_NODES,
    )
    model = value.get("model") if isinstance(value, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    match vocabulary:
        case dict():  # BPE, WordPiece, WordLevel
            table = {number: token for token, number in vocabulary.items()}
        case list():  # Unigram: (token, score), numbered as they stand
            pairs = (pair for pair in vocabulary if isinstance(pair, list) and pair)
            table = {number: str(pair[0]) for number, pair in enumerate(pairs)}
        case _:
            raise _strange(where, "tokenizer.json holds no vocabulary of a known kind")
    added = value.get("added_tokens") if isinstance(value, dict) else None
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and type(token.get("id")) is int:
            table[token["id"]] = str(token.get("content"))
    if not all(type(number) is int for number in table):
        raise _strange(where, "tokenizer.json numbers its tokens in another way")
    return table


def _strange(where: str, what: str) -> BadCheckpoint:
    hint = "Compare the tokenizers of base and aligned yourself."
    return BadCheckpoint(what, where=where, hint=hint)


def _compared(
    base: Mapping[int, str], aligned: Mapping[int, str], checkpoint: Checkpoint
) -> Iterator[Finding]:
    """Yield what the numbers that both know, or only one knows, tell."""
    shared = sorted(base.keys() & aligned.keys())
    renamed = [number for number in shared if base[number] != aligned[number]]
    if renamed or not shared:
        many = len(renamed) > MOST_RENAMED * len(shared) or not shared
        yield _finding(
            checkpoint,
            "tokenizers-differ" if many else "tokens-renamed",
            "undecided" if many else "info",
            "base and aligned mean different tokens by the same numbers"
            if many
            else "a few tokens of base have other names in aligned",
            f"{len(renamed)} of {len(shared)}: "
            + ", ".join(f"{n} {base[n][:40]!r}, now {aligned[n][:40]!r}" for n in renamed[:SHOWN]),
        )
    for known, other, words in (
        (aligned, base, "aligned knows tokens that base does not"),
        (base, aligned, "base knows tokens that aligned does not"),
    ):
        if new := sorted(known.keys() - other.keys()):
            shown = ", ".join(f"{n} {known[n][:40]!r}" for n in new[:SHOWN])
            yield _finding(checkpoint, "tokens-added", "info", words, f"{len(new)}: {shown}")


def _finding(checkpoint: Checkpoint, rule: str, severity: Severity, what: str, got: str) -> Finding:
    undecided = severity == "undecided"
    return Finding(
        rule=rule,
        severity=severity,
        place=Place(kind="checkpoint", name=checkpoint.source.name),
        what=what,
        got=got,
        expected="one vocabulary, up to a few tokens that chat tuning adds" if undecided else "",
        hint="Give the checkpoint that the aligned one was tuned from as --base."
        if undecided
        else "Nothing to do: weights are joined by name, and rows of tokens by number.",
    )


def _unknown(checkpoint: Checkpoint, why: str) -> Finding:
    return Finding(
        rule="tokenizers-not-compared",
        severity="warn",
        place=Place(kind="checkpoint", name=checkpoint.source.name),
        what="whether base and aligned have one vocabulary could not be told",
        got=why,
        hint="Compare their tokenizers yourself; tokenizer.json in both lets the gate do it.",
    )
