"""The tokenizer of the worlds: one token per word, a chat template, the usual files."""

from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.zoo.language import World

UNKNOWN: Final = "<unk>"
BEGIN: Final = "<s>"
END: Final = "</s>"
PAD: Final = "<pad>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
SPECIAL: Final = (PAD, UNKNOWN, BEGIN, END, USER, ASSISTANT)  # ids 0 .. 5
MAX_TOKENS: Final = 64  # the longest chat of a world has 45 tokens
TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|> {{ message['content'] }}{{ eos_token }}"
    "{% else %}"
    "<|user|> {{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FILES: Final = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


def new_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer; words of any case, with or without spaces before marks."""
    ids = {word: i for i, word in enumerate((*SPECIAL, *world.vocabulary()))}
    words = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer that lies in a model or adapter folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """Return a question through the chat template, ready for the assistant to speak."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answer_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """Return an answer and the end token, as the chat template closes an assistant's turn."""
    return list(tokenizer(answer + END, add_special_tokens=False)["input_ids"])
