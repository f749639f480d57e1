"""langfuse: the items of one experiment of Langfuse (https://langfuse.com), as its API gives them page by page.

A log is a JSON list of the API's answers to ``experiments.list_items``, all pages in order. The experiment was made by
``run_experiment(…, metadata={"lockstep_model": "sha256:…"})``, because Langfuse does not know which weights answered. A
metric is called after the score.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from checks.kinds.suite import DocumentSuite, LoggedSample
from checks.records.record import problems


class Langfuse(DocumentSuite):
    """The items of one experiment of Langfuse. ``group`` and ``slice`` are keys of each dataset item's metadata."""

    log_of: ClassVar[str] = "pages of items of an experiment of Langfuse"
    names_model: ClassVar[str] = (
        'call `run_experiment` with metadata={"lockstep_model": "sha256:…"}, and list fields=experimentMetadata'
    )

    kind: Literal["langfuse"]

    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Read every page of one experiment, in which no item failed."""
        items = [item for page in document for item in page["data"]]
        models = [(item.get("experimentMetadata") or {}).get(self.MODEL) for item in items]
        for problem in problems(
            (
                document[-1]["meta"].get("cursor"),
                "its last page is missing: list items until the answer has no cursor",
            ),
            (
                len({item["experimentId"] for item in items}) != 1 or len(set(models)) != 1,
                "has not one experiment: list items with experiment_id",
            ),
        ):
            raise ValueError(problem)
        return models[0], [_logged(item) for item in items]


def _logged(item: dict[str, Any]) -> LoggedSample:
    name, scores = item["experimentItemId"], item.get("scores")
    for problem in problems(
        (item["level"] == "ERROR", f"sample {name!r} ended with an error"),
        (not scores, f"sample {name!r} has no score: list fields=scores"),
        ("input" not in item, f"sample {name!r} has no input: list fields=io"),
    ):
        raise ValueError(problem)
    values = [(score["name"], score["value"]) for score in scores or ()]
    return LoggedSample(
        name,
        [item["input"], item.get("expectedOutput")],
        values,
        item.get("experimentItemMetadata") or {},
    )
