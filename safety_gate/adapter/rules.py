"""What each rule about files and tensors says: severity, sentence and next step."""

from collections.abc import Mapping

from safety_gate.adapter.sniff import ARCHIVE, CODE, PICKLE, WEIGHTS
from safety_gate.records import PlaceKind, Severity

RETRAIN = "Save the adapter again with save_pretrained() and without further edits."
WRONG_MODEL = "Check that this adapter was trained on the aligned checkpoint."

FILE_RULES: Mapping[str, tuple[Severity, str, str]] = {
    PICKLE: (
        "block",
        "a file that can run code when it is loaded lies beside the adapter",
        "Remove it from the repository and its history; save weights as safetensors.",
    ),
    CODE: (
        "block",
        "a program lies beside the adapter",
        "Remove it: an adapter needs no code of its own.",
    ),
    ARCHIVE: (
        "block",
        "an archive lies beside the adapter, and its contents cannot be judged",
        "Remove it, or publish its contents elsewhere.",
    ),
    WEIGHTS: (
        "block",
        "weights lie beside the adapter that PEFT does not load, but another program may",
        "Keep only adapter_model.safetensors; publish other weights in their own repository.",
    ),
    "file-unknown": (
        "undecided",
        "a binary file of unknown kind lies beside the adapter",
        "Remove it, or say what it is in an issue to Safety Gate.",
    ),
    "adapter-nested": (
        "undecided",
        "the repository holds another adapter in a subfolder, which is not judged here",
        "Judge the subfolder on its own, or publish each adapter in its own repository.",
    ),
    "adapter-beside": (
        "info",
        "the repository holds another adapter in a subfolder, which is judged on its own",
        "Nothing to do; look at its own report.",
    ),
    "tokenizer-differs": (
        "warn",
        "a tokenizer or chat template is not the aligned model's",
        "Compare it with the aligned model's file: a template can change what the model is told.",
    ),
    "tokenizer-not-compared": (
        "warn",
        "a tokenizer or chat template was not compared with the aligned model's",
        "Compare it by hand: a template can change what the model is told.",
    ),
    "model-config": (
        "warn",
        "a configuration of the model or of its generation lies beside the adapter",
        "Remove it unless it is needed: the aligned model brings its own.",
    ),
    "config-imports-code": (
        "block",
        "a configuration names code that is to be imported when it is loaded",
        "Remove these entries: an adapter needs no code of its own.",
    ),
    "file-unreadable": (
        "undecided",
        "a configuration file is not JSON that means one thing only",
        "Save the file again with the library that wrote it.",
    ),
    "repair-claimed": (
        "info",
        "the repository says that this adapter was repaired; nothing in this report rests on that",
        "Nothing to do: a repaired adapter is judged like any other, from its files.",
    ),
    "file-unclaimed": (
        "info",
        "a text or image that no part of PEFT reads lies beside the adapter",
        "Nothing to do; remove it if nobody needs it.",
    ),
}
TENSOR_RULES: Mapping[str, tuple[Severity, PlaceKind, str, str]] = {
    "tensor-overwrites-base": (
        "block",
        "tensor",
        "PEFT would replace a weight of the model itself by this tensor, without a warning",
        "Remove the tensor, or declare its module in modules_to_save.",
    ),
    "tensor-unexplained": (
        "block",
        "tensor",
        "nothing in the adapter's config explains this tensor",
        RETRAIN,
    ),
    "lora-not-loaded": (
        "block",
        "module",
        "PEFT would not load these factors: the config does not target their module",
        "Remove the tensors, or name the module in target_modules.",
    ),
    "targets-converted": (
        "undecided",
        "module",
        "PEFT converts the targets for stacked experts, and then would not load these factors",
        "Load the adapter with the transformers that it was trained with, and merge it there.",
    ),
    "tensor-unjudged": (
        "undecided",
        "tensor",
        "the tensors cannot be judged because the config cannot be",
        "Mend what the other findings say about adapter_config.json.",
    ),
    "modules-to-save": (
        "undecided",
        "tensor",
        "a whole module is replaced, and its change is not scored yet",
        "Train the adapter without modules_to_save, or have its behaviour judged.",
    ),
    "parameter-missing": (
        "undecided",
        "tensor",
        "the file replaces a parameter that the aligned checkpoint does not have",
        WRONG_MODEL,
    ),
    "parameter-differs": (
        "undecided",
        "tensor",
        "the new values of a parameter have another shape than the aligned checkpoint's",
        WRONG_MODEL,
    ),
    "tokens-beyond": (
        "warn",
        "tensor",
        "the file brings tokens that the aligned checkpoint lacks; their rows were not scored, and "
        "count against coverage",
        "Have its behaviour judged, and allow this share in the policy's coverage.",
    ),
    "parameter-not-read": (
        "undecided",
        "tensor",
        "the new values of a parameter have a dtype that is not scored",
        "Save the adapter in F32, F16 or BF16.",
    ),
    "saved-without-tensors": (
        "undecided",
        "tensor",
        "the config says that these values are saved, and the file does not hold them",
        RETRAIN,
    ),
    "updates-collide": (
        "undecided",
        "module",
        "the file changes one weight in two ways whose sum is not known",
        "Train the adapter with one kind of update per module, or have its behaviour judged.",
    ),
    "order-unknown": (
        "undecided",
        "config",
        "what this kind of adapter changes follows from the model's code, which was not asked",
        "Give the aligned model with its config.json, from which transformers builds its modules.",
    ),
    "targets-missing": (
        "undecided",
        "config",
        "the config does not say which modules this kind of adapter changes",
        "Save the adapter again with save_pretrained(): it writes target_modules.",
    ),
    "tied-head": (
        "warn",
        "module",
        "the adapter updates a head that shares its weight with the input embedding",
        "Never merge this adapter: its update of the head would change the embedding as well.",
    ),
    "module-missing": (
        "undecided",
        "module",
        "the aligned checkpoint has no weight for this module",
        WRONG_MODEL,
    ),
    "module-without-tensors": (
        "undecided",
        "module",
        "the config targets this module, but the file has no factors for it",
        RETRAIN,
    ),
    "target-not-linear": (
        "undecided",
        "module",
        "the config targets something that is not a linear layer",
        "Name linear layers only in target_modules.",
    ),
    "targets-unclear": (
        "undecided",
        "module",
        "whether layers_to_transform applies to this full name depends on PEFT's shortening",
        "Drop layers_to_transform: the full names say it already.",
    ),
    "factor-missing": ("undecided", "module", "only one of the factors A and B is there", RETRAIN),
    "rank-differs": (
        "undecided",
        "module",
        "the factors have another rank than the config gives this module",
        RETRAIN,
    ),
    "shape-differs": (
        "undecided",
        "module",
        "the factors do not fit the aligned checkpoint's weight",
        WRONG_MODEL,
    ),
    "layout-not-scored": (
        "undecided",
        "module",
        "this change of a weight that the checkpoint stores in another form is not scored",
        "Judge its behaviour, or merge it into a LoRA adapter of the aligned model.",
    ),
    "parameter-not-there": (
        "undecided",
        "config",
        "target_parameters names a parameter that the aligned model does not have",
        WRONG_MODEL,
    ),
    "names-older": (
        "undecided",
        "module",
        "the names are those of an older transformers, and PEFT 0.21.2 would not load the update",
        "Load the adapter with the transformers that it was trained with, and save it again.",
    ),
    "dtype-not-read": (
        "undecided",
        "module",
        "the factors have a dtype that is not scored",
        "Save the adapter in F32, F16 or BF16.",
    ),
}
