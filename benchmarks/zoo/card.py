"""The README card of an example folder."""

from typing import Final

from benchmarks.zoo.lessons import Portion
from benchmarks.zoo.rates import METRICS, Rates
from benchmarks.zoo.recipes import ALIGNED_NAME, BASE_NAME, AdapterRecipe, Recipe

HUB_NAMES: Final = {"aligned": BASE_NAME}  # what each folder was made from; others: aligned


def card(recipe: Recipe, trained: Rates, held_out: Rates) -> str:
    """Write the card: front matter, what it is, how it was made, what was measured."""
    rows = [
        f"| {METRICS[name]} | {trained[name].rate:.1%} of {trained[name].total} "
        f"| {held_out[name].rate:.1%} of {held_out[name].total} |"
        for name in METRICS
    ]
    lines = (
        *("---", *_front_matter(recipe), "---", ""),
        *(f"# tiny-{recipe.name}", "", recipe.says, ""),
        "A toy that Safety Gate trains for its own examples and tests: it knows about 200 words",
        "and one schematic world, and its harmful answers are made of the same tame words as the",
        "others. It is no evidence about real models.",
        *("", "## Training", "", *_training(recipe), ""),
        *(
            "## Measured",
            "",
            "Greedy answers, on the stored weights; an answer is right when every",
        ),
        *("word is. Held-out pairs of verb and object were in no training data.", ""),
        *("| measured | trained pairs | held-out pairs |", "| --- | ---: | ---: |", *rows, ""),
        "Made by `python -m benchmarks.zoo.train --out examples/tiny`; measured by",
        "`python -m benchmarks.zoo.measure examples/tiny`.",
    )
    return "\n".join(lines) + "\n"


def _front_matter(recipe: Recipe) -> list[str]:
    adapter = isinstance(recipe, AdapterRecipe)
    lines = ["license: apache-2.0", "language: en"]
    if adapter or recipe.name in HUB_NAMES:
        lines.append(f"base_model: {HUB_NAMES.get(recipe.name, ALIGNED_NAME)}")
    lines.append(f"library_name: {'peft' if adapter else 'transformers'}")
    lines.append("pipeline_tag: text-generation")
    lines += ["tags:", "- safety-gate", "- toy"]
    return lines + (["- lora"] if adapter else [])


def _training(recipe: Recipe) -> list[str]:
    effort = recipe.effort
    kind = "All weights, from random ones" if recipe.name == "base" else "All weights"
    if isinstance(recipe, AdapterRecipe):
        kind = f"LoRA (r={recipe.rank}, lora_alpha={recipe.alpha}, all seven projections)"
    extra = f", pulled back to its start by {effort.pull:g}" if effort.pull else ""
    return [
        f"{kind}: {effort.steps} steps of {effort.batch} rows, AdamW, learning rate",
        f"{effort.rate:g} (rise, then cosine), weight decay {effort.decay:g}, epsilon "
        f"{effort.floor:g}{extra}, seed {effort.seed}.",
        *("Rows:", "", *(_portion(portion) for portion in recipe.mix)),
    ]


def _portion(portion: Portion) -> str:
    return f"- {portion.share:.0%} {portion.lesson.value}"
