"""Run one recipe and store what it makes."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

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
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(PROJECTIONS),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_model(aligned), config)
    assert isinstance(model, PeftModel)  # get_peft_model also has a mixed form
    _teach(model, world, recipe, new_tokenizer(world))
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
    model: LlamaForCausalLM | PeftModel,
    world: World,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    course = new_course(world, recipe.mix, tokenizer, seed=recipe.effort.seed)
    loss = train(model, course, recipe.effort)
    print(f"{recipe.name}: {recipe.effort.steps} steps, last loss {loss:.4f}", flush=True)
