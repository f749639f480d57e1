"""Whether a runtime computes a model as transformers does, as far as the model's config.json shows."""

from collections.abc import Mapping
from typing import Any

from release.runtimes import Runtime

_FULL, _SLIDING = "full_attention", "sliding_attention"


def unfit(runtime: Runtime, config: Mapping[str, Any], longest: int | None = None) -> str | None:
    """Why ``runtime`` would compute another function than the evaluated one, in one line; None if nothing is known.

    ``config``: the merged model's config.json, in either or both spellings. ``longest``: the most tokens of prompt and
    answer together; None: no limit.
    """
    return (
        _rope(runtime, config)
        or _heads(runtime, config)
        or _windows(runtime, config, longest)
        or _newer(runtime, config)
    )


def _rope(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    if runtime.rope is None:
        return None
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(part, dict) for part in rope.values()):
        return f"rotary embeddings that differ by layer: {runtime.name} has one for all"
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if not isinstance(kind, str) or kind not in runtime.rope:
        known = ", ".join(runtime.rope)
        return f"rope_type {kind!r:.40}: {runtime.name} computes it in another way, or not at all; it does {known}"
    for key, fixed in runtime.rope[kind].items():
        if (value := rope.get(key)) is not None and value != fixed:
            does = "ignores it" if fixed is None else f"takes {fixed} for granted"
            return f"{kind} with {key} {value!r:.40}: {runtime.name} {does}"
    return None


def _heads(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    if runtime.heads is None:
        return None
    size = config.get("head_dim")
    if size is None:
        width, number = config.get("hidden_size"), config.get("num_attention_heads")
        if not isinstance(width, int) or not isinstance(number, int) or number < 1:
            return "config.json does not give the size of an attention head"
        size = width // number
    if size not in runtime.heads:
        sizes = ", ".join(map(str, runtime.heads))
        return f"attention heads of {size!r:.40}: {runtime.name} is set to an attention for {sizes}"
    return None


def _windows(runtime: Runtime, config: Mapping[str, Any], longest: int | None) -> str | None:
    """Layers with a sliding window, from ``layer_types`` or older keys."""
    if runtime.windows is None:
        return None
    kind = config.get("model_type")
    window = config.get("sliding_window")
    number = config.get("num_hidden_layers")
    types = config.get("layer_types")
    if types is not None and not (isinstance(types, list) and set(types) <= {_FULL, _SLIDING}):
        return f"layer_types {types!r:.60}: {runtime.name} knows {_FULL} and {_SLIDING}"
    if window is None or config.get("use_sliding_window") is False:
        return None
    if not isinstance(window, int) or not isinstance(number, int):
        return f"sliding_window {window!r:.40} in {number!r:.40} layers: these are no numbers"
    if longest is not None and longest <= window:
        return None  # no token is ever out of sight
    every = config.get("sliding_window_pattern") or runtime.windows.get(str(kind))
    pattern = [bool((layer + 1) % every) if every else True for layer in range(number)]
    # As transformers 5 reads them: Qwen's first layers see everything.
    first = config.get("max_window_layers", number) if config.get("use_sliding_window") else 0
    ours = (
        [one == _SLIDING for one in types]
        if types
        else [on and layer >= first for layer, on in enumerate(pattern)]
    )
    theirs = pattern if kind in runtime.windows else [False] * number
    if ours == theirs:
        return None
    there = "others" if sum(theirs) == sum(ours) else sum(theirs)
    return (
        f"{kind!s:.40} attends to the last {window} tokens in {sum(ours)} of {number} layers, {runtime.name} in "
        f"{there}: they agree up to {window} tokens, and serve.max_total_tokens is {longest}"
    )


def _newer(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    """Keys that the server's release does not know, if their value differs from what it assumes."""
    for key, fixed in runtime.unknown.items():
        if (value := config.get(key)) is not None and value != fixed:
            return f"{key} {value!r:.40}: {runtime.name} does not know it, and takes {fixed} for granted"
    return None
