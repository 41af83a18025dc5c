"""The aligned model's own tokenizer and chat template.

Only the aligned checkpoint's small files are used: copied by name into a private folder, without
the keys that lead to code or to other files. An adapter's template is never rendered.
"""

import datetime
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safety_gate import strict_json
from safety_gate.checkpoint import CONFIG, Checkpoint
from safety_gate.naming.meta_model import CODE_HINT, REMOTE_CODE, plain_config
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.rows import Tokens

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
GENERATION_CONFIG: Final = "generation_config.json"
FILES: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "vocab.json",
)
MAX_FILE_BYTES: Final = 128 * 2**20  # the largest tokenizer.json today has 35 MB
MAX_DEPTH: Final = 32
# Templates that print today's date would ask another question every day. transformers lets nobody
# pass a function into a template, so one that asks for the day is given this macro in front.
PINNED_DAY: Final = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
ASKS_FOR_THE_DAY: Final = "strftime_now"
DAY_PARTS: Final = "aAbBdejmyYHIMSp"  # what a template may ask strftime for
DAY_MACRO: Final = (
    f"{{%- macro {ASKS_FOR_THE_DAY}(form) -%}}{{{{ form"
    + "".join(f"|replace('%{p}', '{PINNED_DAY.strftime('%' + p)}')" for p in DAY_PARTS)
    + "}}{%- endmacro %}"
)
MARK: Final = "ANSWER"  # stands for an answer where the template is looked at
TEMPLATE_HINT: Final = "Give an aligned (chat or instruct) checkpoint with its chat template."


class Chat:
    """Turns questions into the tokens that the aligned model would be given."""

    def __init__(self, tokenizer: Any, where: str, ends: Sequence[int] = ()) -> None:
        """Take a tokenizer; raises CannotProbe where it has no chat template."""
        self._tokenizer = tokenizer
        self._where = where
        own = tokenizer.eos_token_id
        self.ends = tuple(sorted({*ends, *(() if own is None else (int(own),))}))  # end an answer
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise CannotProbe(
                "the aligned model has no chat template", where=where, hint=TEMPLATE_HINT
            )
        self._template: str = template

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> "Chat":
        """Load the tokenizer of a checkpoint; no network, no code of the repository.

        Raises:
            CannotProbe: transformers cannot load the tokenizer, or it needs foreign code.
            SourceError: a file cannot be read.
        """
        where = checkpoint.source.name
        with tempfile.TemporaryDirectory(prefix="safety-gate-chat-") as folder:
            copy_small_files(checkpoint, Path(folder))
            import transformers

            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=False, local_files_only=True
                )
            except (ValueError, TypeError, KeyError, OSError, ImportError, AttributeError) as error:
                raise CannotProbe(
                    "transformers cannot load the aligned model's tokenizer",
                    where=where,
                    got=f"{type(error).__name__}: {str(error)[:200]}",
                    hint="Put the tokenizer's files beside the aligned model's weights.",
                ) from error
        return cls(tokenizer, where, _ends(checkpoint))

    @property
    def digest(self) -> str:
        """Return the sha256 of the template."""
        return hashlib.sha256(self._template.encode()).hexdigest()

    def ask(self, question: str) -> Tokens:
        """Return a question as tokens, up to where the model's answer begins."""
        return self._tokens(self._rendered([{"role": "user", "content": question}]))

    def openings(self, texts: Sequence[str]) -> list[Tokens]:
        """Return texts as the tokens of an answer's beginning.

        Between the prompt and the answer stands what the template itself puts there (" " for
        Llama 2), and both are cut into tokens together: as the model saw answers in training.

        Raises:
            CannotProbe: the tokenizer does not know a word of a text.
        """
        prompt = self._rendered([{"role": "user", "content": MARK}])
        before = self._tokens(prompt)
        lead = self._lead(prompt)
        found = []
        for text in texts:
            joint = self._tokens(prompt + lead + text)
            fits = joint[: len(before)] == before
            tokens = joint[len(before) :] if fits else self._tokens(text)
            self.check_known(tokens, f"an opening, {text!r}")
            found.append(tokens)
        return found

    def answer(self, text: str) -> Tokens:
        """Return a whole answer as tokens, as ``openings`` does for its beginning."""
        return self.openings([text])[0]

    def judged(self, question: str, answer: str) -> Tokens:
        """Return a question and its answer as tokens, for a guard model to judge."""
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self._tokens(self._rendered(turns, answered=True))

    def check_known(self, tokens: Tokens, what: str) -> None:
        """Raise CannotProbe where a text holds words that the tokenizer does not know."""
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in tokens:
            raise CannotProbe(
                f"the model's tokenizer does not know every word of {what}",
                where=self._where,
                hint="Give prompts and openings in the language of the model.",
            )

    def text(self, tokens: Sequence[int]) -> str:
        """Return an answer's tokens as text, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _lead(self, prompt: str) -> str:
        """Return what the template puts between the prompt and an answer; only white space."""
        turns = [{"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}]
        whole = self._rendered(turns, answered=True)
        lead = whole.removeprefix(prompt).partition(MARK)[0] if whole.startswith(prompt) else ""
        return lead if lead.isspace() else ""

    def _tokens(self, text: str) -> Tokens:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rendered(self, turns: list[dict[str, str]], *, answered: bool = False) -> str:
        """Render a conversation; the day is pinned, and thinking is off where it can be."""
        from jinja2 import TemplateError

        day = DAY_MACRO if ASKS_FOR_THE_DAY in self._template else ""
        template = day + self._template
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=not answered,
                    enable_thinking=False,
                    date_string=PINNED_DAY.strftime("%d %b %Y"),
                )
            )
        except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            raise CannotProbe(
                "the aligned model's chat template cannot be rendered",
                where=self._where,
                got=f"{type(error).__name__}: {str(error)[:200]}",
                hint=TEMPLATE_HINT,
            ) from error


def _ends(checkpoint: Checkpoint) -> list[int]:
    """Return the tokens that end an answer, as the model's own files say."""
    data = _read(checkpoint, GENERATION_CONFIG)
    settings: object = {}
    if data is not None:
        settings = strict_json.parse(
            data,
            where=f"{checkpoint.source.name}: {GENERATION_CONFIG}",
            error=CannotProbe,
            max_bytes=MAX_FILE_BYTES,
            max_depth=MAX_DEPTH,
        )
    found: list[int] = []
    for part in (settings, checkpoint.config):
        ends = part.get("eos_token_id") if isinstance(part, Mapping) else None
        found += [end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int]
    return found


def _read(checkpoint: Checkpoint, name: str) -> bytes | None:
    """Read a small file of the checkpoint whole; None where it is not there."""
    sizes = {entry.path: entry.size for entry in checkpoint.source.files()}
    if name not in sizes:
        return None
    if sizes[name] > MAX_FILE_BYTES:
        raise CannotProbe(
            "a tokenizer file is absurdly large",
            where=f"{checkpoint.source.name}: {name}",
            got=f"{sizes[name]} bytes",
            hint=TEMPLATE_HINT,
        )
    data = bytearray(sizes[name])
    checkpoint.source.read_into(name, 0, memoryview(data))
    return bytes(data)


def copy_small_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the tokenizer's files, and a config without anything that leads elsewhere."""
    for name in FILES:
        data = _read(checkpoint, name)
        if data is not None:
            cleaned = name == TOKENIZER_CONFIG
            (folder / name).write_bytes(_cleaned(data, checkpoint.source.name) if cleaned else data)
    (folder / CONFIG).write_text(json.dumps(plain_config(checkpoint.config)))


def _cleaned(data: bytes, where: str) -> bytes:
    """Return tokenizer_config.json without paths to other files; refuse one that names code."""
    config = strict_json.parse(
        data,
        where=f"{where}: {TOKENIZER_CONFIG}",
        error=CannotProbe,
        max_bytes=MAX_FILE_BYTES,
        max_depth=MAX_DEPTH,
    )
    if not isinstance(config, dict) or REMOTE_CODE in config:
        raise CannotProbe(
            "the tokenizer's config asks for code from its repository",
            where=f"{where}: {TOKENIZER_CONFIG}",
            got=REMOTE_CODE,
            hint=CODE_HINT,
        )
    # A "vocab_file" here would make transformers open any path of this machine (their #46279).
    kept = {k: v for k, v in config.items() if not k.endswith("_file") and k != "name_or_path"}
    return json.dumps(kept).encode()
