"""Whether a runtime computes a model as transformers does, as far as the model's config.json tells."""

from collections.abc import Mapping
from typing import Any

from release.runtimes import Runtime


def unfit(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    """Why ``runtime`` would serve another function than the one that was evaluated, in one line; None: nothing known.

    ``config`` is the merged model's config.json, in both spellings or either.
    """
    return _rope(runtime, config) or _heads(runtime, config)


def _rope(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    if runtime.rope is None:
        return None
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, dict) or any(isinstance(part, dict) for part in found.values()):
        return f"rotary embeddings that differ by layer: {runtime.name} has one for all"
    kind = found.get("rope_type") or found.get("type") or "default"
    if not isinstance(kind, str) or kind not in runtime.rope:
        known = ", ".join(runtime.rope)
        return f"rope_type {kind!r:.40}: {runtime.name} computes it in another way, or not at all; it does {known}"
    for key, fixed in runtime.rope[kind].items():
        if (value := found.get(key)) is not None and value != fixed:
            told = "ignores it" if fixed is None else f"takes {fixed} for granted"
            return f"{kind} with {key} {value!r:.40}: {runtime.name} {told}"
    return None


def _heads(runtime: Runtime, config: Mapping[str, Any]) -> str | None:
    if runtime.heads is None:
        return None
    size = config.get("head_dim")
    if size is None:
        width, number = config.get("hidden_size"), config.get("num_attention_heads")
        if not isinstance(width, int) or not isinstance(number, int) or number < 1:
            return "config.json does not tell the size of an attention head"
        size = width // number
    if size not in runtime.heads:
        sizes = ", ".join(map(str, runtime.heads))
        return f"attention heads of {size!r:.40}: {runtime.name} is set to an attention for {sizes}"
    return None
