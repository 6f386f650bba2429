"""The memory of training, part by part, as TRL, transformers and PEFT allocate it.

Every number comes from these libraries' sources and was checked against what autograd keeps; see
docs/memory.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import checkpoints_gradients, longest_row
from aligntune_run.memory.optimizers import STATE_BYTES, STATES
from aligntune_run.models.config import Shape
from aligntune_run.models.facts import ModelFacts

GIB = 2**30
MIB = 2**20

NORMED_QUERIES = ("qwen3", "qwen3_moe", "olmo2", "olmo3", "gemma3", "gemma3_text")
"""Model types with a norm on queries and keys."""

FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Model types with norms before and after both blocks of a layer."""

COMPOSED_GELU = ("gpt2", "phi", "gptj", "codegen", "gpt_neo", "gpt_bigcode")
"""Model types whose activation is made of single operations; autograd keeps each of them."""

MATRICES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")
"""Names of embedding and output matrices. Other modules that are trained whole are far smaller."""

EAGER = ("gemma2", "bloom")
"""Model types with eager attention only, which keeps the scores of all token pairs."""

CAPPED = ("gemma2",)
"""Model types that apply a tanh to the scores."""

UNGATED = (*COMPOSED_GELU, "gpt_neox", "starcoder2", "opt", "bloom", "falcon", "mpt")
"""Model types whose feed-forward block has two matrices instead of three."""

TILE_TOKENS, TILE_WORDS = 4096, 32768
"""Size of a tile of logits in TRL's fused head (trl/kernels/chunked_logprob.py)."""

TILES = 7.25
"""Float32 copies of a tile held by the head's backward pass without Triton: the logits scaled, by
temperature, as log-probabilities and as probabilities, the gradient with two partial sums, and a
mask of the target word (one byte).
"""

TILES_IN_PIECES = 3
"""Additional tiles if they are small enough for glibc's heap. A new tile cannot reuse a freed one
of the same size, because aligned memory needs a few bytes more.
"""

HEAP_LIMIT = 32 * MIB
"""From this size on, glibc uses separate pages, and returns them when they are freed."""

PIECE = 64 * MIB
"""Bytes of float32 logits per piece of log-probabilities (``ROOM`` in token_logprobs.py)."""

OFFLOADED_LENGTH = 512
"""Unsloth moves checkpoints to main memory if the longest row has at least this many tokens."""

UNKNOWN_LENGTH = 1024
"""Assumed tokens per row if neither the request nor the model sets a limit."""


@dataclass(frozen=True)
class Work:
    """Training on one device: the request, with everything its memory depends on.

    Args:
        cuda: whether the device is a GPU.
        half: whether training uses half precision (autocast).
    """

    spec: RunSpec
    model: ModelFacts
    shape: Shape
    parameters: int
    backend: str
    cuda: bool
    half: bool

    # Trained weights

    @property
    def adapted(self) -> bool:
        return self.spec.adapter.type != "none"

    @property
    def quantization(self) -> str:
        """``none``, ``4bit`` or ``8bit``: requested, or already in the model."""
        return "4bit" if self.model.quantized else self.spec.model.quantization

    @property
    def weight_bytes(self) -> int:
        """Bytes per weight that is not quantized, as in ``worker/inputs/model.py``."""
        asked = self.spec.model.dtype
        if asked == "auto":
            own = self.model.dtype if self.adapted else "float32"
            return 2 if own in ("float16", "bfloat16") else 4
        return 4 if asked == "float32" else 2

    @property
    def compute_bytes(self) -> int:
        return 2 if self.half or self.weight_bytes == 2 else 4

    @property
    def embedding(self) -> int:
        """Weights in the embedding matrix, or in the output matrix."""
        return self.shape.vocabulary * self.shape.hidden

    @property
    def inner(self) -> int:
        """Weights in the layers, nearly all of them in matrices."""
        matrices = 1 if self.shape.tied else 2
        return max(self.parameters - matrices * self.embedding, 0)

    @property
    def weights(self) -> int:
        size = {"none": self.weight_bytes, "4bit": 0.516, "8bit": 1.01}[self.quantization]
        return round(self.inner * size + (self.parameters - self.inner) * self.weight_bytes)

    @property
    def adapter(self) -> int:
        """Weights in the adapter, and in matrices trained whole; PEFT keeps them in float32."""
        if not self.adapted:
            return 0
        targets = self.spec.adapter.targets
        sums = self.model.linear or self._usual_linear()
        named = [size for name, size in sums if targets == "all-linear" or name in targets]
        whole = sum(name in MATRICES for name in self.spec.adapter.modules_to_save)
        return self.spec.adapter.rank * sum(named) + whole * self.embedding

    def _usual_linear(self) -> tuple[tuple[str, int], ...]:
        shape = self.shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        ahead = 4 * shape.hidden + 2 * queries + 2 * keys
        return (("all", shape.layers * (ahead + 3 * (shape.hidden + shape.intermediate))),)

    @property
    def trainable(self) -> int:
        return self.adapter if self.adapted else self.parameters

    @property
    def trainable_bytes(self) -> int:
        return 4 if self.adapted else self.weight_bytes

    @property
    def gradients(self) -> int:
        return self.trainable * self.trainable_bytes

    @property
    def optimizer_is_known(self) -> bool:
        name = self.spec.training.optimizer
        return name in STATES or name in STATE_BYTES

    @property
    def optimizer(self) -> int:
        """State of the optimizer; an unknown one counts as AdamW."""
        name = self.spec.training.optimizer
        if name in STATE_BYTES:
            return round(STATE_BYTES[name] * self.trainable)
        return STATES.get(name, 2) * self.gradients

    @property
    def scratch(self) -> int:
        """Temporary memory of an optimizer step: the roots of all second moments."""
        whole = self.cuda and self.spec.training.optimizer == "adamw_torch"
        return self.gradients if whole else 0

    # Input

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        longest = longest_row(self.spec)
        limits = (longest, self.model.context)
        known = [limit for limit in limits if limit]
        if longest is None:
            known.append(UNKNOWN_LENGTH)
        return min(known)

    @property
    def rows(self) -> int:
        """Sequences per pass; both answers of a pair count."""
        return self.spec.training.batch_size * (2 if self.spec.row.pairs else 1)

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    # Activations

    @property
    def checkpointing(self) -> bool:
        own = self.spec.unsloth.get("use_gradient_checkpointing")
        if self.backend == "unsloth" and own is not None:
            return bool(own)
        return checkpoints_gradients(self.spec, self.cuda)

    @property
    def offloads(self) -> bool:
        """Whether Unsloth moves the checkpointed states to main memory.

        It does so on a GPU, for sequences of 512 tokens or more. PPO's trainer is our own and uses
        transformers' checkpointing.
        """
        own = self.spec.unsloth.get("use_gradient_checkpointing", "unsloth")
        unsloth = self.backend == "unsloth" and self.cuda and own == "unsloth"
        long = self.length >= OFFLOADED_LENGTH or longest_row(self.spec) is None
        return self.checkpointing and unsloth and long and not self.spec.row.critic

    @property
    def layer(self) -> int:
        """Bytes that autograd keeps for one layer, for all tokens."""
        shape, kind = self.shape, self.model.model_type or ""
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        size, wide = self.compute_bytes, 4  # norms compute in float32
        full = not self.adapted
        states = shape.hidden * (wide * (4 if full else 2) + size * (2 if size == 4 else 5))
        attention = size * 2 * (queries + keys) + 4 * shape.heads
        if self.adapted and size == 2:
            attention += size * queries
        if kind in NORMED_QUERIES:
            attention += wide * (2 if full else 1) * (queries + keys)
        if kind in FOUR_NORMS:
            states += wide * (4 if full else 2) * shape.hidden
        if self.eager:
            scores = 4 if size == 4 else 4 + size  # the softmax is in float32
            scores += 2 * size if kind in CAPPED else 0
            attention += scores * shape.heads * self.length
        block = shape.intermediate * size * self._kept_in_block(kind)
        experts = shape.experts_per_token
        if experts > 1:
            block = experts * (block + 2 * shape.hidden * size)
        return self.tokens * (states + attention + block + self._kept_by_adapter)

    @property
    def _kept_by_adapter(self) -> int:
        """Bytes per token and layer: the ranks; with dropout, every input again and its mask; with
        DoRA, every output twice."""
        shape, adapter = self.shape, self.spec.adapter
        if not self.adapted:
            return 0
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        inputs = 5 * shape.hidden + queries + shape.intermediate if adapter.dropout else 0
        outputs = 2 * shape.hidden + queries + 2 * keys + 2 * shape.intermediate
        outputs = 2 * outputs if adapter.dora else 0
        size = self.compute_bytes
        return 7 * adapter.rank * size + inputs * (size + 1) + outputs * size

    @staticmethod
    def _kept_in_block(kind: str) -> int:
        return 8 if kind in COMPOSED_GELU else 2 if kind in UNGATED else 4

    @property
    def eager(self) -> bool:
        asked = self.spec.model.attention
        return asked == "eager" or (asked == "auto" and self.model.model_type in EAGER)

    @property
    def casts(self) -> int:
        """Half-precision copies of other weights, which the backward pass also needs."""
        if not self.half or self.weight_bytes == 2 or self.quantization != "none":
            return 0
        return 2 * self.inner

    @property
    def unpacked(self) -> int:
        """The experts' weights plus their adapter, which PEFT computes for every pass."""
        if not self.adapted or self.shape.experts_per_token == 1:
            return 0
        return self.inner * self.weight_bytes

    @property
    def assembled(self) -> int:
        """Memory glibc keeps after loading: experts are combined from single tensors, and LLM.int8
        is made from whole weights.
        """
        made = self.shape.experts_per_token > 1 or self.quantization == "8bit"
        return min(self.inner * self.weight_bytes, 4 * HEAP_LIMIT) if made else 0

    @property
    def kept(self) -> int:
        """Activations between forward and backward."""
        ends = 3 * self.tokens * self.shape.hidden * 4
        if not self.checkpointing:
            return self.shape.layers * self.layer + self.casts + self.unpacked + ends + self.mask
        if self.offloads:
            return ends + self.mask
        states = self.tokens * self.shape.hidden * self.weight_bytes
        # Autocast's copies of trained weights are freed with the pass, in pieces that glibc keeps.
        pieces = 0 if self.cuda or self.adapted else self.casts
        return self.shape.layers * states + pieces + ends + self.mask

    @property
    def mask(self) -> int:
        """The attention mask; packed rows are one long sequence."""
        if self.spec.training.packing:
            return 5 * self.tokens**2
        return 0 if self.rows == 1 else self.rows * self.length**2

    @property
    def recomputed(self) -> int:
        """Memory of one layer in the backward pass: recomputed activations and gradients."""
        shape = self.shape
        slopes = 4 * shape.intermediate * shape.experts_per_token * self.compute_bytes
        again = self.layer + (self.casts + self.unpacked) // shape.layers
        return self.tokens * (slopes + 16 * shape.hidden) + (again if self.checkpointing else 0)

    # Logits

    @property
    def head(self) -> int:
        """Logits and the loss's temporary memory, at the maximum."""
        size = self.compute_bytes
        if self.spec.row.head == "classifier":
            return 0
        if self.spec.row.critic:
            return self._whole_logits()
        words = self.shape.vocabulary
        buffer = min(self.tokens, TILE_TOKENS) * size
        if self.cuda:
            cast = 0 if self.weight_bytes == size else min(words, TILE_WORDS) * self.shape.hidden
            return buffer * TILE_WORDS + size * cast + 4 * self.tokens * self.shape.hidden
        predicted = self.tokens - self.rows  # a row's first token is not predicted
        tile = min(predicted, TILE_TOKENS) * min(words, TILE_WORDS)
        tiles = TILES + (TILES_IN_PIECES if 4 * tile < HEAP_LIMIT else 0)
        cast = 0 if self.weight_bytes == size else size * min(words, TILE_WORDS)
        return round(tile * (size + 4 * tiles)) + (cast + 4 * self.tokens) * self.shape.hidden

    def _whole_logits(self) -> int:
        """PPO computes log-probabilities from the logits of completions (token_logprobs.py)."""
        completion = min(self.spec.rl.max_completion_length, self.length)
        logits = self.rows * completion * self.shape.vocabulary
        copies = 8 if self.compute_bytes == 4 else 2 + 8  # accelerate converts them to float32
        return logits * copies + 2 * min(4 * logits, PIECE)

    @property
    def head_gradient(self) -> int:
        """The gradient of the output matrix, in float32."""
        trained = not self.adapted and self.spec.row.head == "causal"
        return self.embedding * 4 if trained else 0

    @property
    def evaluation(self) -> int:
        """Logits of completions if log-probabilities are computed from them: Unsloth on a GPU.

        Everything else uses the loss head without a backward pass, and needs less than training.
        """
        data = self.spec.dataset
        read = self.spec.row.reference
        held_out = data.eval_name or data.eval_split or data.validation_fraction
        if not (read and held_out and self.backend == "unsloth" and self.cuda):
            return 0
        logits = self.spec.training.batch_size * self.length * self.shape.vocabulary
        return logits * self.compute_bytes + 2 * min(4 * logits, PIECE)

    # Other models and generation

    @property
    def reference(self) -> int:
        """A frozen copy of all weights; with an adapter, the policy is its own reference."""
        row = self.spec.row
        free = row.online and not self.spec.rl.beta
        return self.weights if row.reference and not free and not self.adapted else 0

    @property
    def critic(self) -> int:
        """PPO's second model, if any, with gradients and optimizer."""
        if not self.spec.row.critic or self.spec.ppo.critic == "head":
            return 0
        return self.weights + self.gradients + self.optimizer

    @property
    def critic_kept(self) -> int:
        return self.kept if self.critic else 0

    @property
    def cache(self) -> int:
        """Keys and values of all completions sampled at once."""
        if not self.spec.row.online:
            return 0
        training, shape = self.spec.training, self.shape
        rows = training.batch_size * training.accumulation()
        if self.spec.row.critic:
            rows = min(64, rows * self.spec.ppo.num_mini_batches)
        keys = 2 * shape.layers * shape.kv_heads * shape.head_dim * self.weight_bytes
        words = 6 * 4 * shape.vocabulary  # logits and temporary memory of sampling
        return rows * (self.length * 2 * keys + words)
