"""promptfoo: results of promptfoo (https://promptfoo.dev) in its JSON format.

``promptfoo eval --no-cache --output results.json`` writes them. promptfoo does not know the model's tree digest, so the
configuration's ``tags`` must name it. A metric is called after the ``metric`` of an assertion; ``score`` is that of
the whole test.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from checks.kinds.suite import DocumentSuite, LoggedSample
from checks.records.record import problems

_ERROR = 2  # promptfoo's failureReason of a test that was not answered or not scored


class Promptfoo(DocumentSuite):
    """Results of promptfoo. ``group`` and ``slice`` are keys of each test's metadata."""

    log_of: ClassVar[str] = "results of promptfoo in JSON"
    names_model: ClassVar[str] = (
        "write `tags: {lockstep_model: 'sha256:…'}` into promptfooconfig.yaml"
    )

    kind: Literal["promptfoo"]

    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Read results of one provider and one prompt. No answer may come from promptfoo's cache."""
        results = document["results"]
        if len(results["prompts"]) != 1:
            raise ValueError("has several providers or prompts: run one provider with one prompt")
        model = (document["config"].get("tags") or {}).get(self.MODEL)
        return model, [_logged(result) for result in results["results"]]


def _logged(result: dict[str, Any]) -> LoggedSample:
    test = result["testCase"]
    name = test.get("description") or str(result["testIdx"])
    cached = (result.get("response") or {}).get("cached")
    for problem in problems(
        (result["failureReason"] == _ERROR, f"sample {name!r} ended with an error"),
        # promptfoo's cache knows the server's address, and not which model answers there.
        (cached, f"sample {name!r} was answered from promptfoo's cache: run it with --no-cache"),
    ):
        raise ValueError(problem)
    scores = [("score", result["score"]), *result["namedScores"].items()]
    return LoggedSample(
        name,
        [result["prompt"]["raw"], test.get("vars"), test.get("assert")],
        scores,
        test.get("metadata") or {},
    )
