"""deepeval: a test run of DeepEval (https://deepeval.com), as it writes one into its folder of results.

``evaluate(cases, metrics, hyperparameters={"lockstep_model": "sha256:…"})`` with DEEPEVAL_RESULTS_FOLDER writes one.
DeepEval does not ask the model itself, so the hyperparameter must name the model that gave the answers. A metric is
called after DeepEval's: ``Exact-Match``, ``Correctness-GEval``.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from checks.kinds.suite import DocumentSuite, LoggedSample
from checks.records.record import problems

# Keys of a test case with what was asked and the reference, which do not depend on the model.
_ASKED = ("input", "expectedOutput", "context", "expectedTools")


class DeepEval(DocumentSuite):
    """A test run of DeepEval. ``group`` and ``slice`` are keys of each test case's metadata."""

    log_of: ClassVar[str] = "test run of DeepEval with test cases"
    names_model: ClassVar[str] = (
        'call `evaluate` with hyperparameters={"lockstep_model": "sha256:…"}'
    )

    kind: Literal["deepeval"]

    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Read test cases of one turn, each scored by every metric without an error."""
        if document.get("conversationalTestCases"):
            raise ValueError("has conversations: only test cases of one turn are read")
        model = (document.get("hyperparameters") or {}).get(self.MODEL)
        return model, [_logged(case) for case in document["testCases"]]


def _logged(case: dict[str, Any]) -> LoggedSample:
    name, metrics = case["name"], case.get("metricsData") or ()
    failed = next((metric["name"] for metric in metrics if metric.get("error")), None)
    for problem in problems(
        (not metrics, f"sample {name!r} has no score"),
        (failed, f"sample {name!r}: {failed} ended with an error"),
    ):
        raise ValueError(problem)
    scores = [(metric["name"], metric.get("score")) for metric in metrics]
    asked = [case.get(key) for key in _ASKED]
    return LoggedSample(name, asked, scores, case.get("metadata") or {})
