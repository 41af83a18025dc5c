"""A forward pass over weights that are never in memory all at once.

The model's own code runs; its decoder blocks and its head are stations, where the weights are read
just before they are needed and dropped after. All batches pass a station before any goes on (see
``relay``), so the checkpoint is read once however much is asked, and the next station is read while
this one computes. In memory are two stations' weights, and the hidden states of all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from safety_gate.checkpoint import Checkpoint
from safety_gate.naming.meta_model import build_model
from safety_gate.naming.names import join_names
from safety_gate.precision import float32_products
from safety_gate.probe.buffers import fill_buffers
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.loading import Load, Loading
from safety_gate.probe.relay import Request, relay
from safety_gate.probe.residents import Residents
from safety_gate.probe.rows import Batch, Row, Scores, Tokens, Tree, inputs, pack, scores
from safety_gate.probe.stations import blocks_of, install, keep, path_of
from safety_gate.probe.updates import Applied
from safety_gate.probe.variants import Variant
from safety_gate.probe.virtual import Virtual
from safety_gate.probe.weights import Weights

if TYPE_CHECKING:
    import torch

# Model types whose attention takes a mask of our own and whose positions can be given, so that the
# continuations of a prompt can share a row; tests/test_probe_stream.py holds each of them.
SHARING: Final = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2"),
        *("olmo", "olmo2", "olmo3", "olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe"),
        *("granite", "granitemoe", "starcoder2", "smollm3", "cohere", "cohere2", "glm", "glm4"),
        *("phi", "stablelm", "gpt_neox", "gptj", "gpt_oss", "exaone4", "seed_oss", "ernie4_5"),
        *("helium", "arcee", "apertus", "nemotron", "hunyuan_v1_dense"),
    }
)
ACTIVATION_BYTES: Final = 256 * 2**20  # of one batch inside a block, and of its logits
# More tokens in a batch gain nothing (1.1B on two cores), and their temporaries cost page faults.
MOST_TOKENS: Final = 2048
# What waits between stations: hidden states, or caches. More makes another pass over the weights.
STATE_BYTES: Final = 2 * 2**30
MOST_PASSES: Final = 256  # each is a thread that mostly sleeps
FOREIGN: Final = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class _Job:
    """One forward pass of one variant, and what becomes of its result."""

    variant: int
    tokens: int  # whose state waits in memory while other passes compute
    work: Callable[[], Any]
    finish: Callable[[Any], None]
    enter: Callable[[], None] = lambda: None  # told before each of its stations is computed


class Stream:
    """The aligned model and its variants, asked block by block."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        variants: Sequence[Variant],
        *,
        dtype: "torch.dtype",
        device: str = "cpu",
    ) -> None:
        """Build the model and join its names; no weight is read yet.

        Raises:
            CannotProbe: transformers cannot build the model, or a variant changes what it has not.
            BadCheckpoint: the weights are not those of the config.
        """
        self.where = checkpoint.source.name
        self.dtype = dtype
        self.model = build_model(
            checkpoint.config,
            self.where,
            dtype,
            error=CannotProbe,
            only_decoders=True,
            dequantised=checkpoint.quantised is None or not checkpoint.quantised.refused,
        )
        self.device = device
        self._config = self.model.config.get_text_config(decoder=True)
        names = join_names(self.model, checkpoint.shapes, self.where)
        fill_buffers(self.model, names.recipes, self.where)
        weights = Weights(self.model, checkpoint, names, device)
        blocks = blocks_of(self.model, self.where)
        head = path_of(self.model, self.model.get_output_embeddings(), "output head", self.where)
        stations = (*blocks, head)
        place = (self.where, checkpoint.shapes)
        self._applied = Applied(self.model, names, variants, stations, place)
        self._residents = Residents(self.model, weights, stations, self.where)
        self._virtual = Virtual(self.model, variants, dtype, self.where)
        self._loading = Loading(weights, self._applied, stations, dtype=dtype, device=device)
        install(self.model, blocks, head)

    @property
    def shares_prompts(self) -> bool:
        """Tell whether the continuations of a prompt can share a row."""
        return self.model.config.model_type in SHARING

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens that the model knows."""
        return int(self._config.vocab_size)

    @property
    def whole_bytes(self) -> int:
        """Return the memory that the model takes when all of it is loaded."""
        return self._loading.all_bytes + self._residents.table_bytes

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """Return what the model thinks of every node of every row's tree, in the rows' order.

        Raises:
            CannotProbe: the model's code fails, or an answer is not finite.
            SourceError: the weights cannot be read.
        """
        import torch

        rows = self._virtual.rows(rows)
        found = [Scores.empty(len(row.tree.tokens)) for row in rows]
        parts: list[tuple[Row, int, tuple[int, ...]]] = []
        for i, row in enumerate(rows):
            if self._fits_tree(row):
                parts.append((row, i, tuple(range(len(row.tree.tokens)))))
            else:
                parts += [(chain, i, path) for chain, path in row.split()]
        batches = pack([part[0] for part in parts], **self._limits())

        def finish(batch: Batch, logits: "torch.Tensor") -> None:
            for place, values in zip(batch.places, scores(batch, logits), strict=True):
                _, i, nodes = parts[place]
                found[i].set(nodes, values)

        jobs = [
            _Job(b.variant, b.size, partial(self._pass, b), partial(finish, b)) for b in batches
        ]
        self._prepare(batches)
        per_token = self._config.hidden_size * self.dtype.itemsize
        for wave in _waves(jobs, STATE_BYTES // per_token):
            with self._loading.streamed() as load:
                self._run(wave, load)
        for row, values in zip(rows, found, strict=True):
            if not bool(torch.isfinite(values.logs).all()):
                raise CannotProbe(
                    "the likelihood of a continuation is not finite",
                    where=self.where,
                    got=f"variant {row.variant}",
                    hint="Check the weights for NaN and Inf, or ask in float32.",
                )
        return found

    def layers(self, variant: int) -> dict[str, str]:
        """Return the layers that a variant changes, by the names of their weights."""
        return self._applied.layers(variant)

    def observe(
        self,
        rows: Sequence[Row],
        entering: Callable[[Batch], None],
        passed: Callable[[str], None],
    ) -> None:
        """Run rows through the model in one pass over the weights, and let somebody watch.

        Args:
            rows: each one continuation; the likelihoods are not wanted.
            entering: hears of the batch that is computed next.
            passed: hears of each station as soon as all batches went through it.

        Raises:
            CannotProbe: the model's code fails, or the rows do not fit into one pass.
            SourceError: the weights cannot be read.
        """
        batches = pack(self._virtual.rows(rows), **self._limits())
        jobs = [
            _Job(b.variant, b.size, partial(self._pass, b), lambda _: None, partial(entering, b))
            for b in batches
        ]
        self._prepare(batches)
        waves = list(_waves(jobs, STATE_BYTES // (self._config.hidden_size * self.dtype.itemsize)))
        if len(waves) > 1:
            raise CannotProbe(
                "this is too much text to watch in one pass",
                where=self.where,
                got=f"{sum(batch.size for batch in batches)} tokens",
                hint="Give fewer or shorter questions and samples.",
            )
        for wave in waves:
            with self._loading.streamed() as load:
                self._run(wave, load, passed)

    def greedy(
        self,
        prompts: Sequence[tuple[int, Tokens]],
        *,
        most: int,
        ends: Sequence[int],
        whole: bool,
    ) -> list[Tokens]:
        """Return the greedy answers to prompts, without the token that ended them.

        Prompts of one length go together, so that nothing is padded.

        Args:
            prompts: (variant, tokens) of each.
            most: tokens of an answer at most.
            ends: tokens that end an answer.
            whole: keep all weights in memory; else they are read once per token.
        """
        begun = [(v, self._virtual.begun(v, prompt)) for v, prompt in prompts]
        chains = [Row(variant=v, prompt=p, tree=_NOTHING) for v, p in begun]
        found: list[Tokens] = [()] * len(prompts)
        jobs = []
        for width in sorted({row.length for row in chains}):
            places = [i for i, row in enumerate(chains) if row.length == width]
            for batch in pack([chains[i] for i in places], **self._limits()):
                own = [places[at] for at in batch.places]

                def finish(answers: list[Tokens], own: list[int] = own) -> None:
                    for place, answer in zip(own, answers, strict=True):
                        found[place] = answer

                work = partial(self._answers, batch, most, frozenset(ends))
                size = len(batch.rows) * (width + most)
                jobs.append(_Job(batch.variant, size, work, finish))
        self._prepare(None)
        loading = self._loading.whole() if whole else self._loading.streamed(again=True)
        with loading as load:
            for wave in _waves(jobs, STATE_BYTES // self._cache_bytes):
                self._run(wave, load)
        return found

    def _prepare(self, batches: Sequence[Batch] | None) -> None:
        """Read the embeddings that batches need, or all, and what lies outside the blocks."""
        if batches is None:
            self._residents.whole()
        else:
            tokens = {token for batch in batches for token in batch.tokens}
            self._residents.prepare(filter(self._virtual.real, tokens))
        self._residents.fill(self._applied.lasting())
        self._applied.stay(self._residents.table, self._residents.wanted)

    @property
    def _cache_bytes(self) -> int:
        """Return what one token leaves in the caches of keys and values of all layers."""
        config, item = self._config, self.dtype.itemsize
        heads = getattr(config, "num_attention_heads", None) or 1  # none: a recurrent state
        kept = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return int(config.num_hidden_layers) * 2 * int(kept) * int(width) * item

    def _fits_tree(self, row: Row) -> bool:
        """Tell whether a row's tree can be asked as one; else its continuations go one by one."""
        if row.tree.is_chain:
            return True
        window = getattr(self._config, "sliding_window", None)
        longest = len(row.prompt) + max(map(len, row.tree.paths))
        # Within the window every layer sees all: the one mask that we give is right for all.
        return self.shares_prompts and (not isinstance(window, int) or longest <= window)

    def _limits(self) -> dict[str, int]:
        """Return how many tokens and logits of a batch stay within ACTIVATION_BYTES each."""
        hidden, item = self._config.hidden_size, self.dtype.itemsize
        wide = max(getattr(self._config, "intermediate_size", None) or 0, 4 * hidden)
        per_token = item * (6 * hidden + 3 * wide)  # what a block holds at its widest
        per_asked = self._config.vocab_size * (item + 8)  # logits, and two float32 copies
        return {
            "tokens": max(1, min(MOST_TOKENS, ACTIVATION_BYTES // per_token)),
            "asked": max(1, ACTIVATION_BYTES // per_asked),
        }

    def _run(
        self, jobs: Sequence[_Job], load: Load, passed: Callable[[str], None] = lambda _: None
    ) -> None:
        """Bring all passes from station to station until each has ended."""
        import torch

        exact = self.dtype == torch.float32 and self.device == "cpu"
        products = float32_products() if exact else nullcontext()
        with torch.no_grad(), products, relay([job.work for job in jobs]) as couriers:
            requests: list[Request | None] = [None] * len(jobs)

            def go_on(i: int, answer: Any = None) -> None:
                with self._applied.variant(jobs[i].variant):  # embeddings and norms, on the way
                    requests[i] = couriers[i].go_on(answer)
                if requests[i] is None:  # handed over at once: logits are large
                    with self._foreign():
                        made = couriers[i].take()
                    jobs[i].finish(made)

            for i in range(len(jobs)):
                go_on(i)
            while (lead := next(filter(None, requests), None)) is not None:
                load(lead.station)
                for i, request in enumerate(requests):
                    if request is None:
                        continue
                    if request.station != lead.station:
                        raise AssertionError("forward passes out of step")
                    jobs[i].enter()
                    with self._applied.variant(jobs[i].variant), self._foreign():
                        answer = request.compute()
                    go_on(i, answer)
                passed(lead.station)

    @contextmanager
    def _foreign(self) -> Iterator[None]:
        """Turn what the model's own code raises into our error."""
        try:
            yield
        except FOREIGN as error:
            raise CannotProbe(
                "the model's code failed in its forward pass",
                where=self.where,
                got=f"{type(error).__name__}: {str(error)[:200]}",
                hint="Judge this adapter by its weights alone, and report the model type.",
            ) from error

    def _pass(self, batch: Batch) -> "torch.Tensor":
        """Run the model's forward for one batch; in a courier's thread."""
        made = inputs(batch, self.dtype)
        extra: dict[str, Any] = {}
        if made.mask is not None and made.positions is not None:
            extra["attention_mask"] = made.mask.to(self.device)
            extra["position_ids"] = made.positions.to(self.device)
        keep(made.kept.to(self.device))
        output = self.model(input_ids=made.ids.to(self.device), use_cache=False, **extra)
        logits: torch.Tensor = output.logits
        return logits

    def _answers(self, batch: Batch, most: int, ends: frozenset[int]) -> list[Tokens]:
        """Choose token after token for one batch; in a courier's thread."""
        import torch

        ids = torch.tensor([row.prompt for row in batch.rows], device=self.device)
        answers: list[list[int]] = [[] for _ in batch.rows]
        going = set(range(len(answers)))
        cache: Any = None
        for _ in range(most):
            keep(torch.full((len(ids), 1), ids.shape[1] - 1, device=self.device))
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = getattr(output, "past_key_values", None)
            chosen = output.logits[:, -1].argmax(dim=-1)
            for i, token in enumerate(chosen.tolist()):
                if i in going and token in ends:
                    going.discard(i)
                elif i in going:
                    answers[i].append(token)
            if not going:
                break
            # A model that keeps its state in another form is given the whole text each time.
            ids = torch.cat((ids, chosen[:, None]), dim=1) if cache is None else chosen[:, None]
        return [tuple(answer) for answer in answers]


def _waves(jobs: Sequence[_Job], tokens: int) -> Iterator[list[_Job]]:
    """Cut jobs into runs that keep no more tokens' states; one that is larger goes alone."""
    wave: list[_Job] = []
    for job in jobs:
        full = len(wave) == MOST_PASSES or sum(j.tokens for j in wave) + job.tokens > tokens
        if wave and full:
            yield wave
            wave = []
        wave.append(job)
    if wave:
        yield wave


_NOTHING: Final = Tree.of([(0,)])  # the tree of a prompt that is only to be answered
