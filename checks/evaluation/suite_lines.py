"""Scores of a suite, held to what params.yaml says of it: by the stage that writes them, and by gates that read them.

Two models can be compared when they were asked the same samples, each once.
"""

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from checks.formats.suite_report import Role, Scale, Scored

_SHOWN = 3  # samples that a refusal names


def problem(
    scored: Mapping[Role, Sequence[Scored]],
    scales: Mapping[str, Scale | None],
    samples: int | None,
    partial: Collection[str] = (),
) -> tuple[Role, str] | None:
    """The first thing that is wrong with scores, and of which model; None: nothing is.

    Every model must have each metric of the same samples as the candidate, each once, asked in the same words, in the
    same group and slice; every value must lie on its scale. ``samples``: how many there must be, where that is
    declared. A metric among ``partial`` scores some samples only, of every model those of the candidate; the first
    metric is none of them.
    """
    wanted = _about(scored.get("candidate", ()), next(iter(scales)))
    if not wanted:
        return "candidate", f"has no sample that {next(iter(scales))} scores"
    if samples is not None and len(wanted) != samples:
        return "candidate", f"has {len(wanted)} samples, and the suite has {samples}"
    for role, lines in scored.items():
        for metric, scale in scales.items():
            low, high = (scale.low, scale.high) if scale else (0.0, sys.float_info.max)
            mine = [line for line in lines if line.metric == metric]
            if twice := [
                sample
                for sample, count in Counter(line.sample for line in mine).items()
                if count > 1
            ]:
                return role, f"{_named(twice)} scored more than once by {metric}"
            metrics = _about(mine, metric)
            expected = _about(scored["candidate"], metric) if metric in partial else wanted
            if missing := sorted(expected.keys() - metrics.keys()):
                return role, f"{_named(missing)} not scored by {metric}"
            if more := sorted(metrics.keys() - (expected.keys() & wanted.keys())):
                return (
                    role,
                    f"{_named(more)} scored by {metric}, and not a sample of the candidate's",
                )
            if other := [sample for sample, about in metrics.items() if about != wanted[sample]]:
                return (
                    role,
                    f"{_named(other)} not what the candidate was asked (sample_sha, group or slice)",
                )
            for line in mine:
                if not low <= line.value <= high:  # NaN fails this, too
                    outside = f"is not from {low:g} to {high:g}"
                    return role, f"sample {line.sample!r}: {metric} {line.value:g} {outside}"
    return None


def _about(lines: Sequence[Scored], metric: str) -> dict[str, tuple[str, str, str]]:
    return {
        line.sample: (line.sample_sha, line.group, line.slice)
        for line in lines
        if line.metric == metric
    }


def _named(samples: Sequence[str]) -> str:
    """How a refusal begins about some samples."""
    shown = ", ".join(repr(sample[:80]) for sample in samples[:_SHOWN])
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return f"sample {shown} is" if len(samples) == 1 else f"samples {shown}{more} are"
