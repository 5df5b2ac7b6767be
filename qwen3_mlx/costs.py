"""What a model of a given config takes, in closed form: parameters, bytes of weights, cache and activations, and what a
decode step reads and launches.

Nothing is loaded or allocated to know these; the tests hold them against real arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from .config import ModelConfig, QuantSpec
from .values import frozen

ROUTER = QuantSpec(bits=8, group_size=64)
SCALE_BYTES = 2  # packed weights carry bf16 or fp16 scales and biases
CACHE_STEP = 256  # positions: capacities of a cache are multiples of it
Groups = Sequence[tuple[int, int]]  # of a cache: how many rows lie together, and positions that there are of each
DRAWING = 13  # times a row's logits in float32: the most that a draw with every option takes (11.3), logits included


@frozen
class Parameters:
    """Numbers of weights by their role, or the bytes that they take. A tied embedding counts once, as ``embedding``."""

    embedding: int
    head: int
    attention: int
    mlp: int
    experts: int
    router: int
    norms: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.layers

    @property
    def layers(self) -> int:
        """Everything but embedding and head: what model cards call non-embedding parameters."""
        return self.attention + self.mlp + self.experts + self.router + self.norms


def parameters(config: ModelConfig) -> Parameters:
    """Weights of the whole model."""
    layers, hidden, head_dim = config.num_hidden_layers, config.hidden_size, config.head_dim
    sparse = moe_layers(config)
    embedding = config.vocab_size * hidden
    return Parameters(
        embedding=embedding,
        head=0 if config.tie_word_embeddings else embedding,
        attention=layers * hidden * 2 * (config.q_size + config.kv_size),
        mlp=(layers - sparse) * 3 * hidden * config.intermediate_size,
        experts=sparse * config.num_experts * expert_parameters(config),
        router=sparse * config.num_experts * hidden,
        norms=layers * 2 * (hidden + head_dim) + hidden,
    )


def moe_layers(config: ModelConfig) -> int:
    """Layers that route to experts."""
    return sum(config.is_moe_layer(index) for index in range(config.num_hidden_layers))


def expert_parameters(config: ModelConfig) -> int:
    """Weights of one expert of one layer."""
    return 3 * config.hidden_size * config.moe_intermediate_size


def active_parameters(config: ModelConfig) -> int:
    """Weights that take part in one token: all but the experts not chosen. The embedding is looked up, so it counts
    only where it is also the head."""
    idle = moe_layers(config) * (config.num_experts - config.num_experts_per_tok) * expert_parameters(config)
    whole = parameters(config)
    return whole.total - idle - (0 if config.tie_word_embeddings else whole.embedding)


def attention_depth(config: ModelConfig) -> float:
    """Tokens of context at which attention takes as many operations for a token as all weights do: 2 for each weight,
    and for each position 2 a coordinate of every query head, once for keys and once for values."""
    return active_parameters(config) / (2 * config.num_hidden_layers * config.q_size)


def weight_bytes(config: ModelConfig, itemsize: int = 2, spec: QuantSpec | None = None) -> int:
    """Bytes of all weights: :func:`bytes_by_role` added up."""
    return bytes_by_role(config, itemsize, spec).total


def bytes_by_role(config: ModelConfig, itemsize: int = 2, spec: QuantSpec | None = None) -> Parameters:
    """Bytes of the weights of each role, ``itemsize`` bytes a weight, or packed as ``spec``.

    Packed models keep norms as they are and routers at 8 bits, and leave a matrix whose width does not divide into
    groups unpacked; that is this converter's recipe, and the official one.
    """
    count, hidden = parameters(config), config.hidden_size
    if spec is None:
        return Parameters(*(getattr(count, field.name) * itemsize for field in fields(count)))

    def gated(weights: int, inner: int) -> int:  # gate and up read the hidden width, down reads the inner one
        outer = packed_bytes(weights // 3 * 2, hidden, spec, itemsize)
        return outer + packed_bytes(weights // 3, inner, spec, itemsize)

    return Parameters(
        embedding=packed_bytes(count.embedding, hidden, spec, itemsize),
        head=packed_bytes(count.head, hidden, spec, itemsize),
        # q, k, v read the hidden width and o the heads'
        attention=packed_bytes(count.attention - _o_proj(config), hidden, spec, itemsize)
        + packed_bytes(_o_proj(config), config.q_size, spec, itemsize),
        mlp=gated(count.mlp, config.intermediate_size),
        experts=gated(count.experts, config.moe_intermediate_size),
        router=packed_bytes(count.router, hidden, ROUTER, itemsize),
        norms=count.norms * itemsize,
    )


def derived_bytes(config: ModelConfig, itemsize: int = 2) -> int:
    """Bytes that a loaded model holds beside its weights: the norms of queries and keys for each head, of ``itemsize``
    bytes a value, and the rotary frequencies in three forms."""
    heads = config.num_attention_heads + config.num_key_value_heads
    return config.num_hidden_layers * heads * config.head_dim * itemsize + 10 * config.head_dim


def _o_proj(config: ModelConfig) -> int:
    return config.num_hidden_layers * config.hidden_size * config.q_size


def packed_bytes(count: int, width: int, spec: QuantSpec, itemsize: int = 2) -> int:
    """Bytes of ``count`` weights in rows of ``width``, packed as ``spec`` where the rows divide into groups."""
    if width % spec.group_size:
        return count * itemsize
    per_group = 2 * SCALE_BYTES if spec.mode == "affine" else 1
    return count * spec.bits // 8 + count // spec.group_size * per_group


def grown(capacity: int, needed: int) -> int:
    """The capacity that a cache grows to so that ``needed`` positions fit: at least half as much again, so that the
    copying of a whole generation stays proportional to its length."""
    target = max(needed, capacity + capacity // 2)
    return -(-target // CACHE_STEP) * CACHE_STEP


def kv_bytes_per_token(config: ModelConfig, kv_bits: int | None = None, itemsize: int = 2) -> int:
    """Bytes that one token's keys and values take in all layers, ``itemsize`` bytes each, or packed to ``kv_bits``
    with a scale and a bias of 2 bytes for each group of 64 (32 for heads that 64 does not divide)."""
    values = config.num_hidden_layers * 2 * config.kv_size
    if kv_bits is None:
        return values * itemsize
    group = 64 if config.head_dim % 64 == 0 else 32
    return values * kv_bits // 8 + values // group * 2 * SCALE_BYTES


def chosen_experts(config: ModelConfig, rows: int) -> float:
    """Experts of a layer that at least one of ``rows`` rows is expected to choose, if each row chooses at random: of n,
    k a row, ``n (1 - (1 - k/n)^rows)``. Rows that say alike choose fewer."""
    return config.num_experts * (1 - (1 - config.num_experts_per_tok / config.num_experts) ** rows)


def step_bytes(
    config: ModelConfig,
    weights: Parameters,
    context: float,
    rows: int = 1,
    kv_bits: int | None = None,
    itemsize: int = 2,
) -> float:
    """Bytes that a decode step of ``rows`` rows has to read, whoever computes it: the weights that take part (of
    ``weights``, bytes by role, of an embedding that is no head next to nothing), of the experts those that are chosen,
    and the keys and values of ``context`` tokens of each row."""
    read: float = weights.total - (0 if config.tie_word_embeddings else weights.embedding)
    if config.num_experts:
        read -= weights.experts * (1 - chosen_experts(config, rows) / config.num_experts)
    return read + rows * context * kv_bytes_per_token(config, kv_bits, itemsize)


def dispatches(
    config: ModelConfig, spec: QuantSpec | None, context: int, rows: int = 1, kv_bits: int | None = None
) -> int | None:
    """Kernels that a decode step launches on a Mac's GPU where all of ours are trusted, the drawing of a token not
    included; weights packed as ``spec``; ``rows`` of one group with ``context`` tokens each. ``None`` for heads that
    our kernels do not take, and from 64 rows on, which nobody has counted.

    Counted from graphs (``benchmarks/dispatches.py``), which the tests hold this to.
    """
    sharing = config.num_attention_heads // config.num_key_value_heads
    if config.head_dim not in (64, 128) or sharing not in (1, 2, 4, 5, 8, 16) or rows > 63:
        return None
    # two norms, two residuals, two projections, norm and RoPE; then keys and values are written, and attended to
    layer = 7 + (3 if kv_bits is None else 2 + _in_blocks(context, sharing, kv_bits))
    sparse = moe_layers(config)
    total = config.num_hidden_layers * layer + (config.num_hidden_layers - sparse) * 3  # gate and up, SwiGLU, down
    total += sparse * (2 + _expert_dispatches(config, spec, rows))  # router, choice
    # a table of cosines, the last norm, the head; the embedding; the rows' lengths
    return total + 3 + (1 if spec is None else 2) + (0 if kv_bits is None else 1)


def _in_blocks(context: int, q_per_kv: int, bits: int) -> bool:
    """Whether attention over a packed cache goes by several blocks, which are merged. A step is traced for whole
    ``CACHE_STEP``."""
    return -(-(context + 1) // CACHE_STEP) * CACHE_STEP > attention_block(q_per_kv, bits)


def attention_block(q_per_kv: int, bits: int) -> int:
    """Tokens of a block: 256 or 512, down to whole steps of four simdgroups, which take 32 scores at a time each, of up
    to 8 heads."""
    step = 4 * (32 // min(q_per_kv, 8))
    return (512 if bits == 4 else 256) // step * step


def _expert_dispatches(config: ModelConfig, spec: QuantSpec | None, rows: int) -> int:
    """Of a layer's chosen experts: our kernels one by one or grouped by expert, or else MLX's own operations, which
    sort 64 pairs of a row and an expert and more."""
    wide = config.hidden_size % 128 == 0 == config.moe_intermediate_size % 128
    if wide and spec is not None and spec.mode == "affine" and spec.bits in (4, 8):
        return 2 if rows <= 8 else 4
    return (13 if spec is None else 7) + (4 if rows * config.num_experts_per_tok >= 64 else 0)


@frozen
class Footprint:
    """What a loaded model takes while it runs, bytes.

    ``weights``: of all arrays of the model, derived ones too; ``itemsize``: of an activation, and of a cached value
    that is not packed to ``kv_bits``; ``scores``: attention holds its scores in full, as on a device without a fused
    attention; ``unpacked``: how many positions times key/value heads of a packed cache are unpacked at a time,
    ``None``: all.
    """

    config: ModelConfig
    weights: int
    itemsize: int = 2
    kv_bits: int | None = None
    scores: bool = False
    unpacked: int | None = None

    def cache(self, groups: Groups) -> int:
        """Keys and values."""
        positions = sum(rows * capacity for rows, capacity in groups)
        return positions * kv_bytes_per_token(self.config, self.kv_bits, self.itemsize)

    def layer(self, groups: Groups) -> int:
        """Those of one layer, which is held twice where rows grow, join or move."""
        return self.cache(groups) // self.config.num_hidden_layers

    def forward(self, groups: Groups, length: int) -> int:
        """Working memory of one pass over ``length`` tokens of each row, which attend to all positions of its group,
        and of a draw.

        A layer's widest moments are its projections and their norms and rotations, ten times queries, keys and values
        (counted from peaks), or the MLP's, 7 times its inner width (of every chosen expert), and 9 times where a CPU's
        two threads have made a half of the rows each; and its attention. Both are added: MLX runs ahead of what it
        frees.
        """
        config, rows = self.config, sum(count for count, _ in groups)
        tokens, positions = rows * length, sum(count * context for count, context in groups)
        widest = 10 * (config.q_size + 2 * config.kv_size)
        if moe_layers(config) < config.num_hidden_layers:
            widest = max(widest, (9 if self.scores else 7) * config.intermediate_size)
        if moe_layers(config):
            expert = 7 * config.moe_intermediate_size + 2 * config.hidden_size
            widest = max(widest, config.num_experts_per_tok * expert)
        passing = size = tokens * (4 * config.hidden_size + widest) * self.itemsize
        if self.scores:  # before and after the softmax; several tokens need the keys transposed
            size += 2 * length * config.num_attention_heads * positions * self.itemsize
            size += positions * config.kv_size * self.itemsize if length > 1 else 0
        unpacking, unpacked = map(max, zip(*(self._unpacked(*group) for group in groups), strict=True))
        if length > 1:  # those of the layer before are not freed yet
            unpacking += unpacked
        return max(size + unpacked, passing + unpacking) + rows * DRAWING * config.vocab_size * 4

    def _unpacked(self, rows: int, context: int) -> tuple[int, int]:
        """Bytes taken while a layer's packed keys and values are unpacked, and then while attention reads them: in
        float32 with as much again on the way, and in the activations' precision."""
        if self.kv_bits is None:
            return 0, 0
        heads = self.config.num_key_value_heads
        at_once = heads if self.unpacked is None else min(heads, max(self.unpacked // max(context, 1), 1))
        values = 2 * rows * context * at_once * self.config.head_dim
        return (values * 17 // 2, values * 4) if self.itemsize == 4 else (values * 21 // 2, values * 6)

    def peak(self, groups: Groups, chunk: int) -> int:
        """The most there is at any time while the rows of these groups are prefilled in chunks, join, grow and decode
        together; a row that joins later is held in the same bytes until then."""
        longest = max((capacity for _, capacity in groups), default=0)
        passing = max(self.forward([(1, longest)], chunk), self.forward(groups, 1) if groups else 0)
        # Groups grow and join between two passes.
        return self.weights + self.cache(groups) + max(self.layer(groups), passing)

    def tokens(self, limit: int, chunk: int) -> int:
        """How many tokens a single row may have below ``limit`` bytes; 0 where not even the smallest cache fits."""
        low, high = 0, 1
        while self.peak([(1, high * CACHE_STEP)], chunk) <= limit:
            low, high = high, 2 * high
            if high > 1 << 24:
                break
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak([(1, middle * CACHE_STEP)], chunk) <= limit else (low, middle)
        return low * CACHE_STEP
