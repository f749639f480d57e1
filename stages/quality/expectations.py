"""The Great Expectations suites over the splits, how they are run, and their Data Docs.

A frame is a list of rows of one kind: ``where`` and ``id`` identify a row, the other columns are checked. ``validate``
computes the columns; this module states the expectations, and Great Expectations checks them.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from checks.config.pipeline_params import Labels, Prepare, Validate
from checks.formats.data_reports import Expectation, PrepareReport
from checks.kinds.rule import rows_dropped
from checks.storage import layout
from stages.quality import data_docs

Frame = list[dict[str, Any]]
# A frame by its columns. A dictionary for each of a million rows takes too much memory.
Columns = dict[str, list[Any]]
SHOWN = 5  # offending rows of an expectation
# The columns of a row as it is in the file.
ROW = ("where", "id", "prompt", "reference", "group", "slice", "source")
COUNTED = ("roles", "asked", "prompt_tokens", "reference_tokens")  # and what validate adds
# A column of the frame of all splits: which control token a row has, and where.
CONTROL = "control_token"
ALL, LABELS, DOCUMENTS = "splits", "labels", "documents"  # frames beside those of the three splits
# Bytes of a frame, at 8 a cell, up to which its page has a fingerprint: that of a million rows takes as long as all
# expectations. Nothing is compared with it: the report has the digests of the splits.
_FINGERPRINT = 8 << 20
# Where the assistant calls tools, their results follow.
_ROLES = "^(?:system )?(?:user (?:assistant (?:tool )+)*assistant )*user(?: assistant(?: tool)+)*$"
_AGAIN = "run `./lockstep run prepare`, which writes the splits and the report together"


class Expected(NamedTuple):
    """An expectation of Great Expectations, and what to do when it fails."""

    of: Any
    todo: str


Suite = dict[str, Expected]  # Expectations by their words.


def suites(
    bounds: Validate,
    config: Prepare,
    report: PrepareReport,
    defects: Sequence[str],
    needed: Sequence[str] = (),
    some: Sequence[str] = (),
    documents: int = 0,
) -> dict[str, Suite]:
    """Return the suite of each frame.

    ``defects``: columns of the frame of all splits that must be null. ``needed``: further columns that every row of a
    split must have, because train.method learns from them; but for ``some``, which the rows of one step have
    and those of another do not. ``documents``: how many of the train rows are documents, which no frame here has.
    """
    gxe = great_expectations().expectations
    written = {
        name: report.splits[name].rows - (documents if name == "train" else 0)
        for name in layout.SPLIT_NAMES
    }
    suites_by_split = {
        name: _of_split(name, bounds, config, report, needed, some, written[name])
        for name in layout.SPLIT_NAMES
    }
    apart = "run `./lockstep run prepare`, which keeps such rows in one split"
    suites_by_split[ALL] = {
        "ids are unique": Expected(
            gxe.ExpectColumnValuesToBeUnique(column="id"),
            "give each row an id of its own in the column that prepare.loader.columns.id names",
        ),
        "no prompt is in two splits": Expected(
            gxe.ExpectColumnValuesToBeNull(column="same_prompt_as"), apart
        ),
        "no near-duplicate is in two splits": Expected(
            gxe.ExpectColumnValuesToBeNull(column="near_duplicate_of"), apart
        ),
        "no group is in two splits": Expected(
            gxe.ExpectColumnValuesToBeNull(column="group_also_in"), apart
        ),
        "no text has a control token of the base": Expected(
            gxe.ExpectColumnValuesToBeNull(column=CONTROL), _without_control_tokens(config)
        ),
        **{
            f"{defect} finds nothing": Expected(
                gxe.ExpectColumnValuesToBeNull(column=defect), by_rules(config, defect)
            )
            for defect in defects
        },
    }
    suites_by_split["conservation"] = {
        "no row is lost or made": Expected(
            gxe.ExpectColumnPairValuesToBeEqual(column_A="counted", column_B="reported"), _AGAIN
        )
    }
    if bounds.labels is not None:
        suites_by_split[LABELS] = _of_labels(bounds.labels)
    return suites_by_split


def _of_split(
    name: str,
    bounds: Validate,
    config: Prepare,
    report: PrepareReport,
    needed: Sequence[str],
    some: Sequence[str],
    written: int,
) -> Suite:
    gxe = great_expectations().expectations
    least: int = getattr(bounds.min_rows, name)
    share = "lower prepare.splits" if name == "train" else f"raise prepare.splits.{name}"
    return {
        "has its columns": Expected(
            gxe.ExpectTableColumnsToMatchOrderedList(column_list=[*ROW, *COUNTED, *needed]),
            "report it: validate makes the columns itself",
        ),
        f"has at least {least} rows": Expected(
            gxe.ExpectTableRowCountToBeBetween(min_value=least),
            f"bring more rows, {share}, or lower validate.min_rows.{name} "
            f"(prepare: {report.input_rows:,} rows in, {rows_dropped(report.rules)})",
        ),
        "has the rows that prepare wrote": Expected(
            gxe.ExpectTableRowCountToEqual(value=written), _AGAIN
        ),
        "prompts are not empty": Expected(
            gxe.ExpectColumnValuesToNotBeNull(column="prompt"),
            by_rules(config, "drop-empty-prompt"),
        ),
        "references are not empty": Expected(
            gxe.ExpectColumnValuesToNotBeNull(column="reference"),
            by_rules(config, "drop-empty-reference"),
        ),
        "turns alternate and end with the user or a tool": Expected(
            gxe.ExpectColumnValuesToMatchRegex(column="roles", regex=_ROLES),
            "fix the turns in the data source: system or none, then user and assistant in turn",
        ),
        f"prompts have at most {bounds.max_prompt_tokens} tokens": Expected(
            gxe.ExpectColumnValuesToBeBetween(
                column="prompt_tokens", min_value=1, max_value=bounds.max_prompt_tokens
            ),
            f"raise validate.max_prompt_tokens, or {_fewer_words(config)}",
        ),
        f"references have at most {bounds.max_reference_tokens} tokens": Expected(
            gxe.ExpectColumnValuesToBeBetween(
                column="reference_tokens", min_value=1, max_value=bounds.max_reference_tokens
            ),
            "raise validate.max_reference_tokens, or shorten these references in the data source: no rule drops them",
        ),
        "prompts are unique": Expected(
            gxe.ExpectColumnValuesToBeUnique(column="asked"),
            by_rules(config, "drop-conflicting-references", "drop-duplicates"),
        ),
        **{
            f"every row has {column}": Expected(
                gxe.ExpectColumnValuesToNotBeNull(column=column),
                "fix or remove these rows in the data source: train.method learns from this column",
            )
            for column in needed
            if column not in some
        },
        **{
            f"a row has {column}": Expected(
                gxe.ExpectColumnUniqueValueCountToBeBetween(column=column, min_value=1),
                "bring rows with this column: a step of train.steps learns from them alone",
            )
            for column in some
            if name == "train"
        },
    }


def _of_labels(bounds: Labels) -> Suite:
    gxe = great_expectations().expectations
    low, high = bounds.min_share, bounds.max_share
    free = "or set validate.labels to null for free text"
    return {
        f"are at most {bounds.max_distinct}": Expected(
            gxe.ExpectColumnUniqueValueCountToBeBetween(
                column="label", min_value=1, max_value=bounds.max_distinct
            ),
            f"write each label in one way, raise validate.labels.max_distinct, {free}",
        ),
        "are the same in every split": Expected(
            gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=1),
            f"write each label in one way, bring more rows of the rare ones, {free}",
        ),
        f"have {low:g} to {high:g} of the rows of each split": Expected(
            gxe.ExpectColumnValuesToBeBetween(column="share", min_value=low, max_value=high),
            "bring more rows of the rare labels or fewer of the common ones, lower validate.labels.min_share "
            f"({low:g}) or raise validate.labels.max_share ({high:g})",
        ),
    }


def by_rules(config: Prepare, *names: str) -> str:
    """How to fix a defect that these rules fix or drop: one of them is missing, or a later rule causes it again."""
    if names == ("drop-personal-data",):
        return (
            "add mask-personal-data or drop-personal-data to the end of prepare.rules, or write what is nobody's into "
            "prepare.personal_data.allow"
        )
    if lacking := [name for name in names if name not in config.rules]:
        return f"add {' and '.join(lacking)} to prepare.rules, or fix these rows in the data source"
    return f"move {' and '.join(names)} to the end of prepare.rules: a rule after it brings the defect back"


def _without_control_tokens(config: Prepare) -> str:
    """Return what to do about control tokens: the rule drops those of common bases alone."""
    if "drop-control-tokens" in config.rules:
        return "write them otherwise in the data source, such as `< |im_end|>`: drop-control-tokens does not know them"
    return "add drop-control-tokens to prepare.rules, or write them otherwise in the data source, such as `< |im_end|>`"


def _fewer_words(config: Prepare) -> str:
    """How to set drop-long-prompt so that it leaves only shorter prompts."""
    longest = f"prepare.max_prompt_words, now {config.max_prompt_words}"
    if "drop-long-prompt" in config.rules:
        return f"lower {longest}: drop-long-prompt counts the words of the last question, and no rule counts tokens"
    return (
        "add drop-long-prompt to prepare.rules: it counts the words of the last question "
        f"({longest}), no rule tokens"
    )


def run(
    suites_by_frame: Mapping[str, Suite], frames: Mapping[str, Frame | Columns], docs: Path | None
) -> list[Expectation]:
    """Check every suite against its frame, build Data Docs in ``docs`` if it is given; return the outcomes in order."""
    gx = great_expectations()
    import pandas as pd
    from great_expectations.execution_engine import pandas_execution_engine

    pandas_execution_engine.HASH_THRESHOLD = _FINGERPRINT
    started = datetime.now(UTC)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    if docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            "lockstep",
            {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index},
        )
    source = context.data_sources.add_pandas("splits")
    run = gx.RunIdentifier(run_name="splits", run_time=data_docs.RUN_TIME)
    outcomes = []
    for frame, suite in suites_by_frame.items():
        for words, expected in suite.items():
            expected.of.meta = {"name": f"{frame}: {words}"}
        data = source.add_dataframe_asset(frame).add_batch_definition_whole_dataframe(frame)
        suite_added = context.suites.add(
            gx.ExpectationSuite(
                name=frame, expectations=[expectation.of for expectation in suite.values()]
            )
        )
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=frame, data=data, suite=suite_added)
        )
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=frame,
                validation_definitions=[definition],
                result_format={
                    "result_format": "SUMMARY",
                    "partial_unexpected_count": SHOWN,
                    "unexpected_index_column_names": ["where", "id"],
                },
            )
        )
        result = checkpoint.run(
            batch_parameters={"dataframe": pd.DataFrame(_columns(frames[frame]), dtype=object)},
            run_id=run,
        )
        (one,) = result.run_results.values()
        by_name = {r.expectation_config.meta["name"]: r for r in one.results}
        unit = "labels by split" if frame == LABELS else "rows"
        outcomes += [
            _outcome(f"{frame}: {words}", by_name[f"{frame}: {words}"], unit) for words in suite
        ]
    if docs is not None:
        context.build_data_docs()
        data_docs.make_reproducible(docs, since=started)
    return outcomes


def _columns(frame: Frame | Columns) -> Columns:
    if isinstance(frame, dict):
        return frame
    names = list(frame[0]) if frame else [*ROW, *COUNTED]
    return {name: [row[name] for row in frame] for name in names}


def _outcome(name: str, result: Any, unit: str) -> Expectation:
    seen = result.result
    raised = [
        info["exception_message"]
        for info in (result.exception_info, *result.exception_info.values())
        if isinstance(info, dict) and info.get("raised_exception")
    ]
    if raised:
        observed = f"could not be checked: {raised[0]}"
    elif "element_count" in seen:
        observed = f"{seen['unexpected_count']} of {seen['element_count']} {unit}"
    else:
        observed = str(seen.get("observed_value"))
    success = bool(result.success) and not raised
    return Expectation(
        name=name,
        expectation=result.expectation_config.type,
        success=success,
        observed=observed,
        unexpected=seen.get("unexpected_count", 0 if success else 1),
        rows=tuple(
            {key: getattr(value, "item", lambda value=value: value)() for key, value in row.items()}
            for row in (seen.get("partial_unexpected_index_list") or [])[:SHOWN]
        ),
    )


def great_expectations() -> Any:
    """Great Expectations, with its usage statistics off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return great_expectations
