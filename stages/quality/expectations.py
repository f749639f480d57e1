"""The Great Expectations suites over the splits, how they are run, and their Data Docs.

A frame is a list of rows of one kind: ``where`` and ``id`` say which one, the other columns are what is
expected of. validate works out the columns; what is expected of them is said here, and checked by Great Expectations.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks import layout
from checks.evidence import Expectation, PrepareReport
from checks.params import Validate

Frame = list[dict[str, Any]]
Suite = dict[str, Any]  # what is expected, in words, to a gx expectation
SHOWN = 5  # offending rows of an expectation
ROW = ("where", "id", "prompt", "reference", "group", "slice", "source")  # columns of a row as it is in the file
COUNTED = ("roles", "asked", "prompt_tokens", "reference_tokens")  # and what validate adds
ALL = "splits"


def suites(bounds: Validate, report: PrepareReport, defects: Sequence[str]) -> dict[str, Suite]:
    """Frame to suite. ``defects`` are columns of the frame of all splits that must be null."""
    gxe = _gx().expectations
    found: dict[str, Suite] = {}
    for name in layout.SPLIT_NAMES:
        least: int = getattr(bounds.min_rows, name)
        found[name] = {
            "has its columns": gxe.ExpectTableColumnsToMatchOrderedList(column_list=[*ROW, *COUNTED]),
            f"has at least {least} rows": gxe.ExpectTableRowCountToBeBetween(min_value=least),
            "has the rows that prepare wrote": gxe.ExpectTableRowCountToEqual(value=report.splits[name].rows),
            "prompts are not empty": gxe.ExpectColumnValuesToNotBeNull(column="prompt"),
            "references are not empty": gxe.ExpectColumnValuesToNotBeNull(column="reference"),
            "turns alternate and end with the user": gxe.ExpectColumnValuesToMatchRegex(
                column="roles", regex="^(?:system )?(?:user assistant )*user$"
            ),
            f"prompts have at most {bounds.max_prompt_tokens} tokens": gxe.ExpectColumnValuesToBeBetween(
                column="prompt_tokens", min_value=1, max_value=bounds.max_prompt_tokens
            ),
            f"references have at most {bounds.max_reference_tokens} tokens": gxe.ExpectColumnValuesToBeBetween(
                column="reference_tokens", min_value=1, max_value=bounds.max_reference_tokens
            ),
            "prompts are unique": gxe.ExpectColumnValuesToBeUnique(column="asked"),
        }
    found[ALL] = {
        "ids are unique": gxe.ExpectColumnValuesToBeUnique(column="id"),
        "no prompt is in two splits": gxe.ExpectColumnValuesToBeNull(column="same_prompt_as"),
        "no near-duplicate is in two splits": gxe.ExpectColumnValuesToBeNull(column="near_duplicate_of"),
        "no group is in two splits": gxe.ExpectColumnValuesToBeNull(column="group_also_in"),
        **{f"{defect} finds nothing": gxe.ExpectColumnValuesToBeNull(column=defect) for defect in defects},
    }
    found["conservation"] = {
        "no row is lost or made": gxe.ExpectColumnPairValuesToBeEqual(column_A="counted", column_B="reported")
    }
    if bounds.labels is not None:
        low, high = bounds.labels.min_share, bounds.labels.max_share
        found["labels"] = {
            f"are at most {bounds.labels.max_distinct}": gxe.ExpectColumnUniqueValueCountToBeBetween(
                column="label", min_value=1, max_value=bounds.labels.max_distinct
            ),
            "are the same in every split": gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=1),
            f"have {low:g} to {high:g} of the rows of each split": gxe.ExpectColumnValuesToBeBetween(
                column="share", min_value=low, max_value=high
            ),
        }
    return found


def run(found: Mapping[str, Suite], frames: Mapping[str, Frame], docs: Path) -> list[Expectation]:
    """Check every suite against its frame, build Data Docs in ``docs``, and return the outcomes in order."""
    gx = _gx()
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        "lockstep",
        {
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    source = context.data_sources.add_pandas("splits")
    outcomes = []
    for frame, suite in found.items():
        for words, expectation in suite.items():
            expectation.meta = {"name": f"{frame}: {words}"}
        data = source.add_dataframe_asset(frame).add_batch_definition_whole_dataframe(frame)
        held = context.suites.add(gx.ExpectationSuite(name=frame, expectations=list(suite.values())))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=frame, data=data, suite=held))
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
        columns = _columns(frames[frame])
        result = checkpoint.run(batch_parameters={"dataframe": pd.DataFrame(columns, dtype=object)})
        (one,) = result.run_results.values()
        by_name = {r.expectation_config.meta["name"]: r for r in one.results}
        outcomes += [_outcome(f"{frame}: {words}", by_name[f"{frame}: {words}"]) for words in suite]
    context.build_data_docs()
    return outcomes


def _columns(frame: Frame) -> dict[str, list[Any]]:
    names = list(frame[0]) if frame else [*ROW, *COUNTED]
    return {name: [row[name] for row in frame] for name in names}


def _outcome(name: str, result: Any) -> Expectation:
    seen = result.result
    raised = [
        info["exception_message"]
        for info in (result.exception_info, *result.exception_info.values())
        if isinstance(info, dict) and info.get("raised_exception")
    ]
    if raised:
        observed = f"could not be checked: {raised[0]}"
    elif "element_count" in seen:
        observed = f"{seen['unexpected_count']} of {seen['element_count']} rows"
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


def _gx() -> Any:
    """Great Expectations, with its usage statistics off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return great_expectations
