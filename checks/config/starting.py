"""A team's params.yaml made from the one in the repository, for `lockstep init`: test rows, licences, text.

What is about the data is written anew: the sections data, prepare, validate and evaluate, and the gates that ask about
answers, licences and overlap. What is about the base, the training, the server and the environments stays as it is.
"""

import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import JsonValue

from checks.config import params_edit, params_file
from checks.config.params import Params
from checks.data import licenses
from checks.formats.survey import Measured, Role
from checks.process.errors import DataRefused, ParamsRefused
from checks.storage import plain_yaml

CONFIDENCE = 0.95
MARGIN = 0.05
MOST_TEST = 0.3  # The largest share of rows for the test split. The others are to learn from.
DIFFERS = 0.2  # The supposed share of test rows on which two equally good models differ.
RULES = (
    "strip-control-characters", "collapse-white-space", "drop-empty-prompt", "drop-empty-reference", "drop-long-prompt",
    "drop-conflicting-references", "drop-duplicates",
)  # fmt: skip
# These kinds do not ask about the answers.
_KEPT_GATES = ("data", "looks", "parity", "budget", "remembers")
_ROOM = 2048  # Tokens that the base reads, with its examples.
# Sections of params.yaml that protect the old model or its data.
_PROTECTING = (
    "prepare.personal_data", "data.sources", "data.contract", "validate.languages", "validate.semantic_duplicates",
    "validate.preferences",
)  # fmt: skip
_LARGEST_MARGIN = 0.25
_SLICE_MARGIN = 0.15


class Choice(NamedTuple):
    """A person's choices.

    ``base`` and ``base_license``: None keeps the base of params.yaml. ``looks``: None keeps that of its gate.
    """

    uri: str
    license: str
    name: str
    labels: bool
    columns: Mapping[Role, str]
    instruction: str | None
    margin: float
    looks: int | None = None
    base: str | None = None
    base_license: str | None = None


def models(params: Params) -> int:
    """Among how many models the gate ``looks`` divides the error."""
    return max(gate.shares for gate in params.gates.values())


def rows_needed(margin: float, shares: int, confidence: float = CONFIDENCE) -> int:
    """Test rows by which an unchanged model shows with 80 % power that it loses less than ``margin``.

    Supposes that it answers otherwise on ``DIFFERS`` of the rows, and that each row is its own group.
    """
    from checks.stats import planning

    needed = planning.needed_if_unchanged([_supposed(1000)], -margin, (1 - confidence) / shares)
    return 10**9 if needed is None else needed.rows


def margin_of(rows: int, shares: int) -> float | None:
    """Return the smallest margin, in whole points, that ``rows`` test rows show; None: none of use."""
    from checks.stats import planning

    loss = (
        planning.detectable_loss([_supposed(rows)], (1 - CONFIDENCE) / shares) if rows > 1 else None
    )
    points = None if loss is None else math.ceil(100 * loss - 1e-6) / 100
    return points if points is not None and points <= _LARGEST_MARGIN else None


def held_margin(measured: Measured, wanted: float, shares: int, *, given: bool) -> float:
    """Return the margin that the gates get: ``wanted``, or the smallest that the test rows show if nobody gave one.

    Raises DataRefused if they do not show a margin that was given, or none of use.
    """
    size, rows = measured.test_size, measured.split_rows["test"]
    possible = margin_of(size, shares)
    if possible is not None and possible <= wanted:
        return wanted
    about = (
        f"{rows} test rows"
        if size == rows
        else f"{rows} test rows that count as {size}, as near-duplicates do"
    )
    if possible is None:
        least = rows_needed(_LARGEST_MARGIN, shares)
        raise DataRefused(
            f"{measured.rows:,} rows give {about}, too few to rule out even a loss of {_LARGEST_MARGIN:g}",
            f"bring more: {least:,} test rows do, of about {math.ceil(least / MOST_TEST):,} rows",
        )
    if not given:
        return possible
    needed = rows_needed(wanted, shares)
    raise DataRefused(
        f"a margin of {wanted:g} needs {needed:,} test rows, and the file gives {about}",
        f"give --margin {possible:g}, or bring about {math.ceil(needed / MOST_TEST):,} rows",
    )


def _supposed(rows: int) -> Any:
    """Paired rows of which ``DIFFERS`` differ, half either way."""
    from checks.stats import paired

    changed = max(1, round(rows * DIFFERS / 2))
    ours, theirs = np.zeros(rows), np.zeros(rows)
    ours[:changed] = theirs[changed : 2 * changed] = 1.0
    return paired.compare(ours, theirs, np.arange(rows), 0.0, CONFIDENCE).pairs


def adapter(base: str, data: str) -> tuple[str, bool]:
    """Return the licence that fits weights made of both, and whether they may be used commercially.

    Raises ParamsRefused for a licence that is not in the table, or if none fits.
    """
    rows = []
    for flag, name in (("--base-license", base), ("--license", data)):
        row = licenses.find(name)
        if row is None:
            raise ParamsRefused(
                f"{flag}: the table of licences has no {name!r}",
                f"give one of docs/reference/licenses.md, such as Apache-2.0, or {licenses.OWN} for rows of your own",
            )
        rows.append(row)
    allowed = [row.derivatives for row in rows if row.derivatives is not None]
    fits = [
        name
        for name in (allowed[0] if allowed else ("Apache-2.0",))
        if all(name in license_names for license_names in allowed)
    ]
    if not fits:
        raise ParamsRefused(
            f"no licence fits a model of a base under {rows[0].name} and data under {rows[1].name}",
            "choose another base or other data: docs/reference/licenses.md",
        )
    return fits[0], all(row.commercial for row in rows)


def prepare(choice: Choice, file: str, words: int, shares: tuple[float, float]) -> dict[str, Any]:
    """Return the section prepare; ``shares`` of the valid and the test split."""
    return {
        "placing": 2,
        "loader": {
            "kind": "table", "files": re.sub(r"([*?[])", r"[\1]", file),
            "columns": {str(role): name for role, name in choice.columns.items()},
            "instruction": choice.instruction,
        },
        "rules": list(RULES),
        "max_prompt_words": words,
        "splits": {"valid": shares[0], "test": shares[1]},
    }  # fmt: skip


def written(
    text: str, params: Params, choice: Choice, prepared: dict[str, Any], measured: Measured
) -> str:
    """Return the new params.yaml, of the ``text`` of the old one, whose values are ``params``.

    Raises ParamsRefused if the old one cannot take the new values.
    """
    base_license = choice.base_license or params.base.license or ""
    prompt, reference = measured.prompt_tokens, measured.reference_tokens
    sections = _parts(text, "")
    data = {"uri": choice.uri, "sha256": measured.sha256, "license": choice.license}
    base = {"uri": choice.base, "sha256": measured.base_sha256, "license": base_license}
    new_sections = {
        "data": data,
        "prepare": prepared,
        "validate": _validate(choice, measured),
        "evaluate": _evaluate(choice, measured),
        **({"base": base} if choice.base is not None else {}),
    }
    sections |= {
        name: plain_yaml.dump({name: value}) + "\n" for name, value in new_sections.items()
    }
    gates = _gates(
        sections["gates"],
        params,
        choice,
        measured,
        adapter(base_license, choice.license),
        base_license,
    )
    sections["gates"] = f"gates:\n{gates}"
    # Keep what stands before the first section.
    head = re.split(r"^(?=\w+:)", text, maxsplit=1, flags=re.MULTILINE)[0]
    values: dict[str, JsonValue] = {
        "train.max_length": prompt + reference,
        "tracking.experiment": choice.name,
        "serve.name": choice.name,
        "serve.max_input_tokens": max(params.serve.max_input_tokens, prompt),
        "serve.max_total_tokens": max(
            params.serve.max_total_tokens,
            max(params.serve.max_input_tokens, prompt)
            + max(reference, params.serve.probes.max_new_tokens),
        ),
    }
    new = params_edit.with_values(head + "".join(sections.values()), values)
    params_file.parse(new, "the new params.yaml")
    return new


def _validate(choice: Choice, measured: Measured) -> dict[str, Any]:
    low, high = measured.label_shares
    return {
        "min_rows": {
            split: max(1, math.floor(0.9 * rows)) for split, rows in measured.split_rows.items()
        },
        "max_prompt_tokens": measured.prompt_tokens,
        "max_reference_tokens": measured.reference_tokens,
        "labels": {
            "max_distinct": measured.distinct,
            "min_share": math.floor(500 * low) / 1000,  # half of the rarest
            "max_share": min(1.0, math.ceil(1200 * high) / 1000),
        }
        if choice.labels
        else None,
    }


def _evaluate(choice: Choice, measured: Measured) -> dict[str, Any]:
    example = measured.prompt_tokens + measured.reference_tokens
    scorers = ("exact-match",) if choice.labels else ("token-f1", "exact-match")
    return {
        "scorers": [{"kind": kind} for kind in scorers],
        "max_new_tokens": measured.reference_tokens,
        "batch_tokens": max(4096, example),
        "precision": "bf16",
        "base_prompt": {
            "labels": choice.labels,
            "shots": max(0, min(10 if choice.labels else 3, _ROOM // example - 1)),
        },
        "baselines": ["majority", "naive-bayes"] if choice.labels else ["majority", "nearest"],
    }


def _gates(
    text: str,
    params: Params,
    choice: Choice,
    measured: Measured,
    shipped: tuple[str, bool],
    base_license: str,
) -> str:
    """Return the gates that stay, as they are written, and those about the task."""
    kept = ""
    for name, part in _parts(text, "  ").items():
        gate = params.gates[name]
        # A budget was chosen for a base of another size.
        if gate.kind in _KEPT_GATES and not (gate.kind == "budget" and choice.base is not None):
            kept += part if part.endswith("\n") else f"{part}\n"
    from scipy.special import stdtrit

    metric = "exact-match" if choice.labels else "token-f1"
    rival = "naive-bayes" if choice.labels else "nearest"
    margin = {"metric": metric, "margin": choice.margin, "confidence": CONFIDENCE}
    new: dict[str, dict[str, Any]] = {
        "test_is_unseen": {
            "kind": "contamination", "ngram": 13, "max_ngram_share": 0.05, "shingle": 5, "similarity": 0.8,
            "max_near_duplicate_share": 0.0,
        },
        "licences_agree": {
            "kind": "license", "allow": sorted({base_license, choice.license, shipped[0]}), "adapter": shipped[0],
            "commercial": shipped[1],
        },
    }  # fmt: skip
    if choice.labels:
        rows = max(2, min(measured.test_size, math.floor(0.9 * measured.split_rows["test"])))
        # The same quantile as in checks.stats.mean_planning.
        t = float(stdtrit(rows - 1, 1 - (1 - CONFIDENCE) / 2 / models(params)))
        new["answers_well"] = {
            "kind": "threshold", "metric": metric, "at_least": math.floor(100 * measured.majority) / 100,
            "confidence": CONFIDENCE, "resolution": min(0.99, math.ceil(110 * t / (2 * math.sqrt(rows))) / 100),
        }  # fmt: skip
    new |= {
        name: {"kind": kind, "against": against, **margin, "margin": gate_margin}
        for name, kind, against, gate_margin in (
            ("beats_the_base", "improves", "base", 0.0),
            ("earns_its_cost", "improves", rival, 0.0),
            ("keeps_up_with_main", "non_inferior", "main", choice.margin),
            ("keeps_up_with_production", "non_inferior", "production", choice.margin),
            ("keeps_up_with_the_best", "non_inferior", "best", 2 * choice.margin),
        )
    }
    if "slice" in choice.columns:
        widest = max(_SLICE_MARGIN, 2 * choice.margin)
        # The rows that one slice needs for a new model that is as good.
        least = rows_needed(widest, models(params))
        new |= {
            name: {
                "kind": "slice",
                "against": against,
                **margin,
                "margin": widest,
                "min_rows": least,
            }
            for name, against in (
                ("no_slice_falls_behind", "main"),
                ("no_slice_falls_behind_production", "production"),
            )
        }
    return kept.rstrip() + "\n" + textwrap.indent(plain_yaml.dump(new), "  ")


def _parts(text: str, indent: str) -> dict[str, str]:
    """Return the text of each key that is written at ``indent``, comments below it included."""
    starts = [*re.finditer(rf"^{indent}(\w[\w-]*):", text, re.MULTILINE)]
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=True)}


def left_out(old: Params, new: Params) -> tuple[str, ...]:
    """Return sections and gates that protect the old model or its data, and that the new params.yaml lacks."""
    sections = [name for name in _PROTECTING if _value(old, name) and not _value(new, name)]
    return (*sections, *(f"gates.{name}" for name in old.gates if name not in new.gates))


def _value(params: Params, name: str) -> object:
    section, field = name.split(".")
    return getattr(getattr(params, {"validate": "validate_"}.get(section, section)), field)
