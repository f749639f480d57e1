"""Attention for a forward pass over a flat row of tokens that belong to many sequences.

The model computes each token once, without padding; attention alone needs to know which tokens precede which. Keys and
values lie in slots, and each sequence names the slots of its tokens, in order: sequences that begin alike share slots
(as the pages of vLLM's PagedAttention, https://arxiv.org/abs/2309.06180, one token to a page).

Computed as transformers' own "eager" attention does: scores in the model's precision, softmax accumulated in fp32.
transformers calls ``attend`` through its AttentionInterface, and hands on the ``flat`` batch that the model was called
with: https://huggingface.co/docs/transformers/attention_interface.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

_NAME = "lockstep_flat"

# Arguments of attention that change nothing for one who only generates.
_IDLE = frozenset({"cache_position", "dropout", "output_router_logits", "position_ids", "use_cache"})
_LAYERS = frozenset({"full_attention", "sliding_attention"})
# Frequencies that are chosen by the longest row of a pass, for all of its rows.
_CHANGING = frozenset({"dynamic", "longrope"})
_ORIGINAL = "original_max_position_embeddings"
# Settings of attention that its arguments do not tell: of Llama 4, and of Gemma 3n.
_OTHERWISE = ("attention_chunk_size", "attn_temperature_tuning", "num_kv_shared_layers")
_UNSAID = -1  # a window that attention is not told

# Of one head: scores, and columns of keys and values, that one group may have, unless it is one row.
_SCORES, _GATHERED = 1 << 21, 1 << 17
# What a group of sequences costs besides its scores, in scores, and what a query does, in columns. Measured on a CPU;
# a wrong value costs time, never an answer.
_GROUP_COST, _QUERY_COST = 2000, 20
_COLUMNS = 32  # lengths that differ by less are not told apart when groups are chosen


class Foreign(Exception):  # noqa: N818 - no error: the model is asked in another way
    """The model's attention is computed otherwise than here."""


class Slots:
    """Keys and values of all layers: per layer two tensors, (capacity, heads x width)."""

    def __init__(self, capacity: int, begin: "Slots | None" = None) -> None:
        self.capacity = capacity
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if begin:
            for layer, held in begin._layers.items():
                self.write(layer, 0, *held)

    def write(
        self, layer: int, first: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the slots from ``first`` on; returns the layer's keys and values."""
        if layer not in self._layers:
            self._layers[layer] = (
                keys.new_empty(self.capacity, keys.shape[1]), values.new_empty(self.capacity, values.shape[1])
            )  # fmt: skip
        held = self._layers[layer]
        for into, new in zip(held, (keys, values), strict=True):
            into[first : first + len(new)] = new
        return held


class Query(NamedTuple):
    """Tokens ``first`` to ``first + size`` of a batch are the last ones of a sequence with these slots."""

    first: int
    size: int
    slots: torch.Tensor


class _Group:
    """Sequences that are computed together, padded: ``rows`` of ``width`` queries over ``columns`` slots."""

    def __init__(self, queries: Sequence[Query], device: torch.device) -> None:
        self.rows, self.width = len(queries), max(query.size for query in queries)
        self.columns = max(len(query.slots) for query in queries)
        counts, lengths, firsts = (
            torch.tensor(of)[:, None]
            for of in zip(*((q.size, len(q.slots), q.first) for q in queries), strict=True)
        )  # fmt: skip
        # A short row repeats its last query. Columns behind a row's end show slot 0, which is always written.
        place = torch.arange(self.width).minimum(counts - 1)
        taken = (firsts + place).flatten()
        self.taken = taken.to(device)
        self.slots = pad_sequence([query.slots for query in queries], batch_first=True).flatten().to(device)
        self._at = (lengths - counts + place).to(device)
        self._bias: dict[int | None, torch.Tensor] = {}
        # Which results count, and of which tokens they are.
        self.kept = (torch.arange(self.width) < counts).flatten().nonzero()[:, 0]
        self.tokens = taken[self.kept]

    def bias(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """0 where a query sees a column, else minus infinity: (rows, 1, width, 1, columns)."""
        if window not in self._bias:
            columns, at = torch.arange(self.columns, device=like.device), self._at[:, :, None]
            hidden = columns > at
            if window is not None:
                hidden |= columns <= at - window
            self._bias[window] = like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, :, None]
        return self._bias[window]


class Flat:
    """A flat batch of ``tokens`` whose keys and values go to the slots from ``first`` on, and who sees whom in it."""

    def __init__(self, slots: Slots, first: int, tokens: int, queries: Sequence[Query], device: torch.device) -> None:
        self.slots, self.first = slots, first
        self.seen = set[int]()  # layers that have attended
        ordered = sorted(
            (piece for query in queries for piece in _pieces(query)), key=lambda q: (-q.size, -len(q.slots))
        )
        parts = cut([(query.size, len(query.slots)) for query in ordered])
        self.groups = [_Group(ordered[begin:end], device) for begin, end in parts]
        # Where each token's result lies among the results of all groups.
        where, offset = torch.empty(tokens, dtype=torch.long), 0
        for group in self.groups:
            where[group.tokens] = group.kept + offset
            offset += group.rows * group.width
        self.where = where.to(device)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = _UNSAID,
    softcap: float | None = None,
    flat: Flat | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in place of its own attention: tensors (1, heads, tokens, width) in.

    Out: (1, tokens, heads, width). Raises Foreign when the model asks for something that is not computed here.
    """
    if flat is None:
        raise Foreign("its attention is not told what the model was called with")
    if odd := sorted({name for name, given in others.items() if given is not None and given is not False} - _IDLE):
        raise Foreign(f"its attention takes {', '.join(odd)}")
    if attention_mask is not None or not getattr(module, "is_causal", True):
        raise Foreign("its attention is not causal alone")
    if module.layer_idx in flat.seen:
        raise Foreign("a layer of it attends twice")
    if sliding_window == _UNSAID:
        sliding_window = None
        if _has_window(getattr(module, "config", None)):
            raise Foreign("its window is told to the mask alone")
    flat.seen.add(module.layer_idx)
    _, heads, tokens, width = key.shape
    shared = query.shape[1] // heads
    keys, values = flat.slots.write(module.layer_idx, flat.first, _by_token(key), _by_token(value))
    queries, scale = _by_token(query), width**-0.5 if scaling is None else scaling
    found = []
    for group in flat.groups:

        def rows(tensor: torch.Tensor, index: torch.Tensor, group: _Group = group) -> torch.Tensor:
            """Of the tokens of ``index``, per row and head: (rows x heads, tokens of a row, the head's part)."""
            picked = tensor.index_select(0, index).view(group.rows, -1, heads, tensor.shape[1] // heads)
            return picked.transpose(1, 2).flatten(0, 1)

        # Scaled before and not after: in fp16 products of whole keys may be too large.
        asked = rows(queries, group.taken).reshape(group.rows * heads, group.width * shared, width).mul_(scale)
        scores = torch.bmm(asked, rows(keys, group.slots).transpose(1, 2))
        if softcap is not None:
            scores.div_(softcap).tanh_().mul_(softcap)
        scores.view(group.rows, heads, group.width, shared, -1).add_(group.bias(sliding_window, queries))
        result = torch.bmm(scores.softmax(-1), rows(values, group.slots))
        found.append(result.view(group.rows, heads, group.width, -1).transpose(1, 2).reshape(len(group.taken), -1))
    return torch.cat(found).index_select(0, flat.where).view(1, tokens, heads * shared, -1), None


AttentionInterface.register(_NAME, attend)


@contextmanager
def taken_over(model: Any, longest: int) -> Iterator[None]:
    """Let the model's attention be ``attend`` for rows of at most ``longest`` tokens, answers included.

    Raises Foreign where the configuration says that it is another. What it does not say, see generate.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - _LAYERS
    kinds |= {name for name in _OTHERWISE if getattr(config, name, None)}
    if kinds:
        raise Foreign(f"its attention has {', '.join(sorted(kinds))}")
    if longest > _fixed(model, config):
        raise Foreign(f"its positions turn otherwise where rows are long, and one has {longest} tokens")
    if not model.is_backend_compatible():
        raise Foreign("its attention cannot be exchanged")
    before = model.config._attn_implementation
    parts = {name: getattr(model.config, name) for name in model.config.sub_configs}
    inner = {name: of for name, part in parts.items() if (of := getattr(part, "_attn_implementation", None))}
    try:
        model.set_attn_implementation(_NAME)
        if model.config._attn_implementation != _NAME:
            raise Foreign("its attention cannot be exchanged")
        yield
    finally:
        model.set_attn_implementation({"": before, **inner} if inner else before)


def _fixed(model: Any, config: Any) -> float:
    """Tokens up to which positions turn as they do for every shorter row."""
    limits = [float("inf")]
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if _CHANGING & set(kind.values() if isinstance(kind, dict) else (kind,)):
            rope = getattr(config, "rope_parameters", None) or {}
            nested = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
            limits += [part[_ORIGINAL] for part in nested if _ORIGINAL in part]
            limits += [
                found for name in (_ORIGINAL, "max_position_embeddings") if (found := getattr(config, name, None))
            ]
    return min(limits)


def _has_window(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return bool(getattr(config, "sliding_window", None)) and (kinds is None or "sliding_attention" in kinds)


def _by_token(tensor: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, width) to (tokens, heads x width): how a projection gave it."""
    return tensor[0].transpose(0, 1).flatten(1)


def _pieces(query: Query) -> Iterator[Query]:
    """The query in pieces whose scores fit."""
    most = max(1, _SCORES // len(query.slots))
    before = len(query.slots) - query.size
    for begin in range(0, query.size, most):
        end = min(begin + most, query.size)
        yield Query(query.first + begin, end - begin, query.slots[: before + end])


def cut(shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut shapes (queries, columns) into groups [begin, end), each computed as large as its largest.

    ``shapes`` descend by queries, then columns. Of all ways the cheapest, by dynamic programming over runs of like
    shapes; and no group has more scores or columns than fit, unless it is one row.
    """
    runs = [0]
    for place in range(1, len(shapes)):
        (queries, columns), (before, wider) = shapes[place], shapes[runs[-1]]
        if queries != before or columns // _COLUMNS != wider // _COLUMNS:
            runs.append(place)
    runs.append(len(shapes))
    best, origin = [0], [0]
    for end in range(1, len(runs)):
        costs, columns = {}, 0
        for begin in range(end - 1, -1, -1):
            first = runs[begin]
            columns = max(columns, shapes[first][1])
            padded = (runs[end] - first) * shapes[first][0] * (columns + _QUERY_COST)
            costs[begin] = best[begin] + padded + _GROUP_COST
        origin.append(min(costs, key=lambda begin: costs[begin]))
        best.append(costs[origin[-1]])
    groups, end = list[tuple[int, int]](), len(runs) - 1
    while end:
        first, last = runs[origin[end]], runs[end]
        columns = max(shape[1] for shape in shapes[first:last])
        most = max(1, min(_SCORES // (shapes[first][0] * columns), _GATHERED // columns))
        groups += [(begin, min(begin + most, last)) for begin in range(first, last, most)]
        end = origin[end]
    return sorted(groups)
