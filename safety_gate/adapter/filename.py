"""What the names of files promise; the bytes are looked at first, in sniff.py."""

from collections.abc import Mapping

from safety_gate.adapter.sniff import ARCHIVE, CODE, PICKLE, WEIGHTS

# Files that some loader unpickles, or that carry code in another way (Keras, NeMo).
PICKLE_SUFFIXES = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
    ".t7",
    ".nemo",
    ".mar",
    ".pdparams",
    ".distcp",
)
CODE_SUFFIXES = (
    ".py",
    ".pyc",
    ".pyo",
    ".pyx",
    ".pyd",
    ".pyw",
    ".pyz",
    ".ipynb",
    ".vbs",
    ".wsf",
    ".cjs",
    ".mjs",
    ".r",
    ".sh",
    ".bash",
    ".zsh",
    ".bat",
    ".cmd",
    ".ps1",
    ".js",
    ".mjs",
    ".rb",
    ".pl",
    ".lua",
    ".php",
    ".exe",
    ".dll",
    ".so",
    ".dylib",
    ".o",
    ".a",
    ".wasm",
    ".class",
    ".jar",
    ".whl",
    ".egg",
    ".desktop",
    ".cu",
    ".c",
    ".cpp",
)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".lz4")
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".gguf",
    ".ggml",
    ".onnx",
    ".tflite",
    ".mlmodel",
    ".engine",
    ".trt",
    ".pb",
    ".params",
    ".msgpack",
    ".weights",
    ".ot",
)
SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(PICKLE_SUFFIXES, PICKLE),
    **dict.fromkeys(CODE_SUFFIXES, CODE),
    **dict.fromkeys(ARCHIVE_SUFFIXES, ARCHIVE),
    **dict.fromkeys(WEIGHT_SUFFIXES, WEIGHTS),
}
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
TOKENIZER = VOCABULARIES | {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
}
TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})
MODEL_CONFIGS = frozenset({"config.json", "generation_config.json"})
DOCUMENTS = frozenset({"README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"})
GIT = frozenset({".gitattributes", ".gitignore"})
RECORDS = frozenset(
    {
        "trainer_state.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        "training_args.json",
        "trainer_log.jsonl",
    }
)
# Written by a repair (safety_gate/repair/manifest.py): from what, and every file by its sha256.
MANIFEST = "safety_gate_manifest.json"
