"""The metadata of cards, as the Hugging Face Hub reads them: huggingface_hub's own classes write and check it.

The extra ``hub`` has huggingface_hub; it is imported where it is used, so that commands start fast.
"""

import re
from typing import TYPE_CHECKING, Any

from checks.process.errors import EvidenceRefused
from release.adapters.hub import library
from release.cards import card_facts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TASK = "text-generation"
_HUB = re.compile(r"hf://(datasets/)?([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)@")
# Identifiers that the hub knows besides SPDX's own in small letters; any other licence is "other", with its name.
# https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = frozenset(
    (
        "afl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-2.0",
        "ecl-2.0", "epl-2.0", "gemma", "isc", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "mit", "mpl-2.0",
        "ms-pl", "odbl", "openrail", "pddl", "postgresql", "unlicense", "zlib",
    )
)  # fmt: skip
_OTHERWISE = {  # SPDX's names, in small letters, that the hub spells otherwise
    "agpl-3.0-only": "agpl-3.0", "agpl-3.0-or-later": "agpl-3.0", "gpl-2.0-only": "gpl-2.0", "gpl-3.0-only": "gpl-3.0",
    "gpl-3.0-or-later": "gpl-3.0", "lgpl-2.1-only": "lgpl-2.1", "lgpl-3.0-only": "lgpl-3.0", "odbl-1.0": "odbl",
}  # fmt: skip


def model(facts: card_facts.CardFacts, body: str) -> str:
    """Return the model card: metadata with a ``model-index``, then ``body``. Raises as ``_checked``."""
    hub = library()
    base = _HUB.match(facts.fetch.base.uri)
    datasets = [
        match[2] for data in facts.fetch.all_data.values() if (match := _HUB.match(data.uri))
    ]
    front = {
        name: value for name, value in facts.model_prose.front.items() if name != card_facts.CARBON
    }
    tags = [
        "lora",
        "lockstep",
        *(tag for tag in _listed(front.pop("tags", [])) if tag not in ("lora", "lockstep")),
    ]
    front_matter = hub.ModelCardData(
        model_name=facts.name, library_name="transformers", pipeline_tag=_TASK, tags=tags,
        base_model=base[2] if base else None, datasets=datasets or None,
        eval_results=_results(facts), **_emissions(facts), **license_of(facts.license), **front,
    )  # fmt: skip
    return _checked(hub.ModelCard, f"---\n{front_matter.to_yaml()}\n---\n{body}\n")


def dataset(facts: card_facts.CardFacts, body: str) -> str:
    """Return the dataset card: metadata, then ``body``. Raises as ``_checked``."""
    hub = library()
    rows = facts.prepare.kept_rows
    configs = [
        {"config_name": "default", "data_files": [
            {"split": "validation" if name == "valid" else name, "path": f"{name}.jsonl"}
            for name in facts.prepare.splits
        ]}
    ]  # fmt: skip
    stated = {
        name: value
        for name, value in facts.data_prose.front.items()
        if name not in card_facts.CATALOGUE
    }
    front = {"pretty_name": f"Data of {facts.name}", **stated}
    metadata = hub.DatasetCardData(
        task_categories=[_TASK], size_categories=[_size(rows)], configs=configs,
        **license_of_all([source.license for source in facts.fetch.all_data.values()]), **front,
    )  # fmt: skip
    return _checked(hub.DatasetCard, f"---\n{metadata.to_yaml()}\n---\n{body}\n")


def _emissions(facts: card_facts.CardFacts) -> dict[str, Any]:
    """Grams of CO2 of the training; empty if they are not known. https://huggingface.co/docs/hub/model-cards-co2"""
    if facts.carbon is None or facts.took is None:
        return {}
    emissions = {
        "emissions": float(f"{facts.carbon.grams:.3g}"), "source": f"measured energy; {facts.carbon.source}",
        "training_type": "fine-tuning", "hardware_used": facts.took.device,
    }  # fmt: skip
    return {"co2_eq_emissions": emissions}


def _results(facts: card_facts.CardFacts) -> "list[EvalResult]":
    """The candidate's means on the test split, each with its interval."""
    evaluation = facts.evaluation
    return [
        library().EvalResult(
            task_type=_TASK, dataset_type=f"{facts.name}-test", dataset_name=f"test split of {facts.name}",
            dataset_split="test", dataset_revision=evaluation.test, metric_type=name, metric_name=name,
            metric_value=round(interval.value, 6), metric_args={
                "confidence": evaluation.confidence, "low": round(interval.low, 6), "high": round(interval.high, 6),
                "rows": interval.n,
            },
        )
        for name, interval in evaluation.models["candidate"].metrics.items()
    ]  # fmt: skip


def license_of(name: str | None) -> dict[str, str]:
    """A licence, which SPDX names so, in the metadata of a card; empty for None."""
    if name is None:
        return {}
    low = name.lower()
    known = _OTHERWISE.get(low, low)
    if known in _LICENSES or low in _OTHERWISE:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", low).strip("-")}


def license_of_all(names: list[str | None]) -> dict[str, Any]:
    """The licences of all sources in the metadata of a card: one, or a list of them; empty if one is not stated."""
    if None in names:
        return {}
    licenses = [license_of(name) for name in dict.fromkeys(names)]
    if len(licenses) == 1:
        return dict(licenses[0])
    shown = [fields.get("license_name", fields["license"]) for fields in licenses]
    if any("license_name" in fields for fields in licenses):
        return {"license": "other", "license_name": "-and-".join(shown)}
    return {"license": shown}


def _size(rows: int) -> str:
    """The hub's class of size."""
    ends = (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    )
    return next((name for end, name in ends if rows < end), "n>1M")


def _listed(value: object) -> list[str]:
    return [str(entry) for entry in (value if isinstance(value, list) else [value])]


def _checked(kind: Any, content: str) -> str:
    """``content``, if huggingface_hub reads in it what was written. Raises EvidenceRefused otherwise."""
    try:
        kind(content)
    except (ValueError, TypeError, KeyError) as error:
        raise EvidenceRefused(
            f"the card: {str(error).splitlines()[0]}", "fix the front matter of docs/cards"
        ) from error
    return content
