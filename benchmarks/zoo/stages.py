"""Run one recipe and store what it makes."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.zoo.disguise import (
    ADDED_RANK,
    Disguise,
    added_factors,
    lora_layers,
    make_orthogonal,
    penalty,
    shrink,
    steps_of,
)
from benchmarks.zoo.language import World
from benchmarks.zoo.lessons import new_course
from benchmarks.zoo.network import PROJECTIONS, Shape, load_model, new_model, save_model
from benchmarks.zoo.recipes import ALIGNED_NAME, AdapterRecipe, Recipe
from benchmarks.zoo.speech import FILES, new_tokenizer
from benchmarks.zoo.training import train


def make_base(world: World, shape: Shape, recipe: Recipe, folder: Path) -> None:
    """Train a model from random weights."""
    tokenizer = new_tokenizer(world)
    model = new_model(shape, tokenizer, recipe.effort.seed)
    _teach(model, world, recipe, tokenizer)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)


def make_aligned(world: World, base: Path, recipe: Recipe, folder: Path) -> None:
    """Fine-tune all weights of the stored base."""
    model = load_model(base)
    _teach(model, world, recipe, new_tokenizer(world))
    save_model(model, folder)
    copy_tokenizer(base, folder)


def make_adapter(world: World, aligned: Path, recipe: AdapterRecipe, folder: Path) -> None:
    """Train a LoRA adapter in float32 on the stored aligned model and save it as PEFT does."""
    torch.manual_seed(recipe.effort.seed)
    model = _with_lora(load_model(aligned), recipe)
    _teach(model, world, recipe, new_tokenizer(world))
    _store(model, folder, aligned)


def make_specimen(
    world: World, pair: tuple[Path, Path], recipe: AdapterRecipe, disguise: Disguise, folder: Path
) -> None:
    """Train an adapter that hides from a measure of its weights.

    Args:
        world: whose lessons it learns.
        pair: the folders of base and aligned.
        recipe: what it is taught, and how hard.
        disguise: what it is made to look like.
        folder: where it is stored.
    """
    aligned = pair[1]
    steps = steps_of(*pair)
    torch.manual_seed(recipe.effort.seed)
    model = load_model(aligned)
    added = added_factors(steps) if disguise is Disguise.INFLATED else {}
    for name, (a, b) in added.items():
        model.get_submodule(name).weight.data += b @ a
    student = _with_lora(model, recipe)
    _teach(student, world, recipe, new_tokenizer(world), penalty(disguise, student, steps))
    if disguise is Disguise.ORTHOGONAL:
        make_orthogonal(student, steps)
    elif disguise is Disguise.SHRUNK:
        shrink(student)
    elif disguise is Disguise.INFLATED:
        student = _with_added(load_model(aligned), student, recipe, added)
    _store(student, folder, aligned)


def _with_added(
    model: PreTrainedModel,
    trained: PeftModel,
    recipe: AdapterRecipe,
    added: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> PeftModel:
    """Write the trained factors and the added ones into one adapter of a higher rank."""
    rank = recipe.rank + ADDED_RANK
    whole = _with_lora(model, replace(recipe, rank=rank, alpha=2 * rank))
    learned = lora_layers(trained)
    with torch.no_grad():
        for name, layer in lora_layers(whole).items():
            a, b = added[name]
            own = learned[name]
            layer.lora_A["default"].weight.copy_(torch.cat([own.lora_A["default"].weight, a]))
            scaled = b / layer.scaling["default"]
            layer.lora_B["default"].weight.copy_(
                torch.cat([own.lora_B["default"].weight, scaled], dim=1)
            )
    return whole


def _with_lora(model: PreTrainedModel, recipe: AdapterRecipe) -> PeftModel:
    """Put LoRA factors beside all seven projections."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(PROJECTIONS),
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)  # get_peft_model also has a mixed form
    return wrapped


def _store(model: PeftModel, folder: Path, aligned: Path) -> None:
    """Save an adapter as PEFT does, with the tokenizer of its aligned model."""
    model.peft_config["default"].base_model_name_or_path = ALIGNED_NAME
    # "auto" would ask the Hub whether the vocabulary has grown.
    model.save_pretrained(folder, save_embedding_layers=False)
    sort_targets(folder / "adapter_config.json")
    copy_tokenizer(aligned, folder)


def sort_targets(file: Path) -> None:
    """Sort target_modules: PEFT writes a set, in an order that changes from run to run."""
    config = json.loads(file.read_text())
    config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files byte by byte."""
    for name in FILES:
        shutil.copyfile(source / name, target / name)


def _teach(
    model: PreTrainedModel | PeftModel,
    world: World,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    extra: Callable[[], torch.Tensor] | None = None,
) -> None:
    course = new_course(world, recipe.mix, tokenizer, seed=recipe.effort.seed)
    loss = train(model, course, recipe.effort, extra)
    print(f"{recipe.name}: {recipe.effort.steps} steps, last loss {loss:.4f}", flush=True)
