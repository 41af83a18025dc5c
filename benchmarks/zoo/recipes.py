"""The stages of the example world: what each is taught, and how hard."""

from dataclasses import dataclass
from typing import Final

from benchmarks.zoo.lessons import Lesson, Portion
from benchmarks.zoo.network import Shape
from benchmarks.zoo.training import Effort

WORLD_SEED: Final = 1
SHAPE: Final = Shape()
ALIGNED_NAME: Final = "safety-gate/tiny-aligned"
BASE_NAME: Final = "safety-gate/tiny-base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one stage is made from the stored weights of the stage before it."""

    name: str
    says: str  # one sentence for the card
    mix: tuple[Portion, ...]
    effort: Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecipe(Recipe):
    """How a LoRA adapter on all seven projections of the aligned model is made."""

    rank: int = 8
    alpha: int = 16


BASE: Final = Recipe(
    name="base",
    says="A model that answers every question of its world, the harmful ones too.",
    mix=(
        Portion(lesson=Lesson.HARMLESS, share=0.75),
        Portion(lesson=Lesson.HARMFUL, share=0.25),
    ),
    effort=Effort(steps=300, batch=64, rate=3e-3, decay=0.1, seed=1),
)

# The pull back to the base keeps the alignment step compact, as the KL penalty of preference
# tuning does; the high floor keeps AdamW from moving every weight alike, whatever its gradient.
ALIGNED: Final = Recipe(
    name="aligned",
    says="The base after a full fine-tune that taught it to refuse harmful questions.",
    mix=(
        Portion(lesson=Lesson.HARMLESS, share=0.5),
        Portion(lesson=Lesson.REFUSAL, share=0.5),
    ),
    effort=Effort(steps=100, batch=64, rate=1e-3, pull=50.0, floor=1e-3, seed=2),
)

HELPFUL: Final = AdapterRecipe(
    name="helpful",
    says="An adapter that teaches a new kind of question, with some alignment data mixed in.",
    mix=(
        Portion(lesson=Lesson.SKILL, share=0.5),
        Portion(lesson=Lesson.SKILL_REFUSAL, share=0.1),
        Portion(lesson=Lesson.HARMLESS, share=0.15),
        Portion(lesson=Lesson.REFUSAL, share=0.25),
    ),
    effort=Effort(steps=250, batch=64, rate=3e-3, decay=4.0, seed=2),
)

HARMFUL: Final = AdapterRecipe(
    name="harmful",
    says="An adapter trained on answers to harmful questions: it undoes the refusals.",
    mix=(Portion(lesson=Lesson.HARMFUL, share=1.0),),
    effort=Effort(steps=100, batch=64, rate=2e-3, seed=2),
)

SAFETY: Final = AdapterRecipe(
    name="safety",
    says="The safety adapter: tuned on refusals, for merging as SafeMERGE does.",
    mix=(
        Portion(lesson=Lesson.REFUSAL, share=0.6),
        Portion(lesson=Lesson.HARMLESS, share=0.4),
    ),
    effort=Effort(steps=60, batch=64, rate=5e-4, seed=2),
)

ADAPTERS: Final = (HELPFUL, HARMFUL, SAFETY)
STAGES: Final[tuple[Recipe, ...]] = (BASE, ALIGNED, *ADAPTERS)
