"""Writes the merged directory's config and tokenizer so that old and new servers read the same model.

transformers 5 writes ``rope_parameters``, ``dtype``, ``chat_template.jinja`` and its own tokenizer classes. Earlier
releases, and Text Generation Inference, which contains 4.51 and also reads these files itself, expect ``rope_theta``,
``rope_scaling``, ``torch_dtype``, ``chat_template`` in tokenizer_config.json and the old classes, and silently use a
default if one is missing. So the old form is written beside the new one. RoPE in the old form alone is kept, because
transformers 5 reads it.

Not changed: RoPE by kind of layer, except Gemma 3's, because transformers 4.51 refuses such models anyway.
"""

import math
from pathlib import Path
from typing import Any

from checks.process.errors import MergeRefused
from stages.weights import model_files

GENERATION, _MODEL_CONFIG = "generation_config.json", "config.json"
_IDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
# What transformers writes beside; none of it reaches the choice of a token.
_KEPT = (
    *_IDS,
    "_from_model_config",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "use_cache",
)


def neutralise(folder: Path) -> tuple[str, ...]:
    """Remove from generation_config.json of the model directory ``folder`` everything that can change an answer.

    Returns the removed keys. If there is no such file, one is written with the ids of config.json, because servers
    would otherwise read the other keys there too. Raises MergeRefused if a file cannot be read.
    """
    path = folder / GENERATION
    before = model_files.read(path if path.exists() else folder / _MODEL_CONFIG, MergeRefused)
    kept = _KEPT if path.exists() else _IDS
    after = {key: value for key, value in before.items() if key in kept}
    if not path.exists() or after != before:
        model_files.write(path, after)
    return tuple(sorted(before.keys() - after.keys())) if kept is _KEPT else ()


CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
_AGREE = "correct the one that is wrong in the base, and pin it again"
# Where the original length is absent, transformers 5 takes `max_position_embeddings`; others fail.
_ORIGINAL = "original_max_position_embeddings"
_WITH_ORIGINAL = ("llama3", "yarn", "longrope")
# The names that transformers 5 gives to tokenizers of no family; 4.51 knows none of them.
_BACKENDS = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")
# At the ends of a text, 4.51 has these add what the config says, by default bos; transformers 5 heeds tokenizer.json.
_ENDS_FROM_CONFIG = ("LlamaTokenizer", "CodeLlamaTokenizer", "CohereTokenizer", "GemmaTokenizer")
_GENERIC = "PreTrainedTokenizerFast"  # tokenizer.json, as it stands, in every version
# What a family called these before; the others had the names of today.
_OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
_PHI3 = ("short_factor", "long_factor")  # beside `type`; 4.51 refuses any other key


def spell_both(folder: Path) -> None:
    """Add the old form to config.json and tokenizer_config.json of the model directory ``folder``.

    The same files give the same bytes, and a second call changes nothing. Raises MergeRefused if a file cannot be read,
    if both forms are present and disagree, or if the old form cannot express the setting.
    """
    path = folder / CONFIG
    _replace(path, config(_read(path)))
    path, template, processor = folder / TOKENIZER, folder / TEMPLATE, folder / "chat_template.json"
    text = _text(template) if template.exists() else None
    if text is not None and processor.exists() and _read(processor).get("chat_template") != text:
        raise MergeRefused(f"{processor.name}: chat_template is not the text of {TEMPLATE}", _AGREE)
    if path.exists() or text is not None:
        before = _read(path) if path.exists() else {}
        fast = folder / "tokenizer.json"
        _replace(path, tokenizer_config(before, text, _read(fast) if fast.exists() else None))


def config(value: dict[str, Any], place: str = CONFIG) -> dict[str, Any]:
    """Return the config with both forms of dtype and RoPE, in ``text_config`` too; ``place`` names it in refusals."""
    result = dict(value)
    if isinstance(text := value.get("text_config"), dict):
        result["text_config"] = config(text, f"{place}: text_config")
    if (dtype := _agreed(place, value, "dtype", "torch_dtype")) is not None:
        result |= {"dtype": dtype, "torch_dtype": dtype}
    rope = value.get("rope_parameters")
    if rope is None:
        return result | _old_yarn(value, place)
    if not isinstance(rope, dict):
        raise MergeRefused(
            f"{place}: rope_parameters is {rope!r:.80}, not an object", "export the base again"
        )
    if not any(isinstance(part, dict) for part in rope.values()):
        rope = _completed(value, rope)
        return result | {"rope_parameters": rope} | _old_rope(value, rope, place)
    if value.get("model_type") == "gemma3_text":
        return result | _old_rope_of_gemma3(value, rope, place)
    return result


def tokenizer_config(
    value: dict[str, Any], template: str | None, tokenizer: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the tokenizer's config with a class, special tokens and chat template that both generations read.

    ``template``: the text of chat_template.jinja; ``tokenizer``: the content of tokenizer.json; None if there is no
    such file.
    """
    result = dict(value)
    name = value.get("tokenizer_class")
    if tokenizer is not None and str(name).removesuffix("Fast") in _ENDS_FROM_CONFIG:
        # Not held to what the config said: the model was trained and is measured with tokenizer.json's.
        result |= _ends(value, tokenizer)
    if name in _BACKENDS:
        if tokenizer is None:
            raise MergeRefused(
                f"{TOKENIZER}: tokenizer_class is {name}, which older servers lack, and tokenizer.json is absent",
                "save the base's tokenizer as tokenizer.json, and pin it again",
            )
        result["tokenizer_class"] = _GENERIC
    if isinstance(extra := value.get("extra_special_tokens"), list):
        # A list is transformers 5's; 4.51 wants names for each and fails. Both read the older key.
        older = value.get("additional_special_tokens")
        if older is not None and older != extra:
            raise _disagreement(
                TOKENIZER, "extra_special_tokens", extra, "additional_special_tokens", older
            )
        del result["extra_special_tokens"]
        result["additional_special_tokens"] = extra
    if template is not None:
        inline = value.get("chat_template")
        if isinstance(inline, list):  # several, by name
            named = {
                entry.get("name"): entry.get("template")
                for entry in inline
                if isinstance(entry, dict)
            }
            inline = named.get("default")
            if inline is None:
                raise MergeRefused(
                    f"{TOKENIZER}: chat_template has no template named default", _AGREE
                )
        else:
            result["chat_template"] = template
        if inline is not None and inline != template:
            raise MergeRefused(f"{TOKENIZER}: chat_template is not the text of {TEMPLATE}", _AGREE)
    return result


def _ends(value: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, bool]:
    """Whether ``tokenizer`` puts bos before a text and eos after it, the only options of the old classes."""
    before: list[str] = []
    after: list[str] = []
    try:
        processor = tokenizer.get("post_processor") or {}
        steps = processor.get("processors", [processor])
        kinds = {step.get("type") for step in steps} - {None, "TemplateProcessing", "ByteLevel"}
        for step in steps:
            side = before
            for piece in step.get("single", []):
                if "Sequence" in piece:
                    side = after
                else:
                    side.append(piece["SpecialToken"]["id"])
    except (AttributeError, KeyError, TypeError) as error:
        raise MergeRefused(
            "tokenizer.json: post_processor cannot be read", "export the base again"
        ) from error
    bos, eos = (
        token.get("content") if isinstance(token := value.get(key), dict) else token
        for key in ("bos_token", "eos_token")
    )
    if kinds or before not in ([], [bos]) or after not in ([], [eos]):
        raise MergeRefused(
            f"tokenizer.json: post_processor ({', '.join(sorted(kinds)) or 'TemplateProcessing'}) adds other tokens "
            f"than bos before and eos after a text, which {value['tokenizer_class']} of older servers cannot",
            f"make tokenizer_class {_GENERIC} in the base's {TOKENIZER}, and pin it again",
        )
    return {"add_bos_token": bool(before), "add_eos_token": bool(after)}


def _old_rope(value: dict[str, Any], rope: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the old keys for ``rope``, which applies to every layer."""
    old: dict[str, Any] = {}
    for key in ("rope_theta", "partial_rotary_factor"):
        if (number := rope.get(key)) is not None:
            name = _OLD_NAMES.get(str(value.get("model_type")), {}).get(key, key)
            old[name] = _same(place, f"rope_parameters.{key}", number, name, value.get(name))
    scaling = _scaling(value, rope)
    if (before := value.get("rope_scaling")) is not None:
        theirs = _scaling(value, before) if isinstance(before, dict) else before
        if theirs != scaling:
            raise _disagreement(place, "rope_parameters", scaling, "rope_scaling", before)
    if scaling.get("rope_type") == "yarn":
        old |= _context_of_yarn(value, scaling, place)
    if scaling.get("rope_type") == "longrope":
        old[_ORIGINAL] = scaling[_ORIGINAL]
        if value.get("model_type") == "phi3":
            scaling = _scaling_of_phi3(scaling, place)
    if scaling != {"rope_type": "default"}:
        old["rope_scaling"] = scaling
    return old


def _old_yarn(value: dict[str, Any], place: str) -> dict[str, Any]:
    """YaRN in the old form, which both generations read alike only if both lengths are given."""
    rope = value.get("rope_scaling")
    # In Phi-3's first configs "yarn" is the name of longrope, in every version.
    if (
        not isinstance(rope, dict)
        or value.get("model_type") == "phi3"
        or _scaling(value, rope)["rope_type"] != "yarn"
    ):
        return {}
    rope = _completed(value, rope)
    return {"rope_scaling": rope} | _context_of_yarn(value, rope, place)


def _old_rope_of_gemma3(value: dict[str, Any], rope: dict[str, Any], place: str) -> dict[str, Any]:
    """Gemma 3's two kinds of layer: the old form scales only the full ones."""
    full = _completed(value, rope.get("full_attention") or {})
    sliding = rope.get("sliding_attention") or {}
    if _scaling(value, sliding) != {"rope_type": "default"}:
        raise MergeRefused(
            f"{place}: rope_parameters.sliding_attention is scaled, which older servers cannot",
            _AGREE,
        )
    old = {"rope_parameters": rope | {"full_attention": full}} | _old_rope(value, full, place)
    if (theta := sliding.get("rope_theta")) is not None:
        local = "rope_local_base_freq"
        old[local] = _same(
            place, "rope_parameters.sliding_attention.rope_theta", theta, local, value.get(local)
        )
    return old


def _completed(value: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """``rope`` with the model's training length written out, if its kind of scaling needs it."""
    scaling = _scaling(value, rope)
    return (
        rope | {_ORIGINAL: scaling[_ORIGINAL]} if scaling["rope_type"] in _WITH_ORIGINAL else rope
    )


def _scaling_of_phi3(scaling: dict[str, Any], place: str) -> dict[str, Any]:
    if other := sorted(scaling.keys() - {"rope_type", _ORIGINAL, *_PHI3}):
        raise MergeRefused(
            f"{place}: rope_parameters.{other[0]} has no place in Phi-3's rope_scaling", _AGREE
        )
    return {"type": scaling["rope_type"]} | {key: scaling.get(key) for key in _PHI3}


def _scaling(value: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """Return the scaling in ``rope`` as both generations name it, with its defaults written out."""
    apart = ("rope_theta", "partial_rotary_factor", "type", "rope_type")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    scaling = {"rope_type": kind} | {
        k: v for k, v in rope.items() if k not in apart and v is not None
    }
    if kind in _WITH_ORIGINAL:
        scaling[_ORIGINAL] = (
            value.get(_ORIGINAL) or scaling.get(_ORIGINAL) or value.get("max_position_embeddings")
        )
    return scaling


def _context_of_yarn(value: dict[str, Any], scaling: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the context length from which transformers 4.51 computes YaRN's factor.

    It computes max_position_embeddings / original_max_position_embeddings and ignores the given factor; transformers 5
    and TGI use the given one. They agree if the context is the extended one, so an original context is extended by the
    factor.
    """
    context, original = value.get("max_position_embeddings"), scaling[_ORIGINAL]
    factor = scaling.get("factor")
    if not all(
        isinstance(n, int | float) and 0 < n < math.inf for n in (context, original, factor)
    ):
        raise MergeRefused(
            f"{place}: YaRN with factor {factor!r}, max_position_embeddings {context!r}, "
            f"original_max_position_embeddings {original!r}",
            "export the base again with three positive numbers",
        )
    extended = factor * original
    if context in (original, extended) and extended == int(extended):
        return {"max_position_embeddings": int(extended)}
    raise MergeRefused(
        f"{place}: YaRN's factor is {factor:g}, but max_position_embeddings / original_max_position_embeddings is "
        f"{context / original:g}, which older servers take instead",
        f"make max_position_embeddings {extended:g} in the base, and pin it again",
    )


def _agreed(place: str, value: dict[str, Any], new: str, old: str) -> Any:
    """Return the value of either key; None if neither is present."""
    first = value.get(new)
    return value.get(old) if first is None else _same(place, new, first, old, value.get(old))


def _same(place: str, new: str, first: Any, old: str, second: Any) -> Any:
    if second is not None and second != first:
        raise _disagreement(place, new, first, old, second)
    return first


def _disagreement(place: str, new: str, first: Any, old: str, second: Any) -> MergeRefused:
    return MergeRefused(f"{place}: {new} is {first!r:.200}, but {old} is {second!r:.200}", _AGREE)


def _replace(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` unless it is there already."""
    if not path.exists() or _read(path) != value:
        model_files.write(path, value)


def _read(path: Path) -> dict[str, Any]:
    return model_files.read(path, MergeRefused)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MergeRefused(
            f"{path.name}: cannot be read: {error}", "run `./lockstep run fetch`"
        ) from error
