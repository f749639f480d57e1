"""parity: merged and adapter agree on real prompts, by log-probability and by the most likely token."""

from typing import ClassVar, Literal

from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads, failed
from checks.records.sections import Agreement, problems
from checks.storage import layout


class ParityGate(GateKind, Agreement):
    """Merged and adapter agree on real prompts."""

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 60

    kind: Literal["parity"]

    def check(self, case: Case) -> Finding:
        """Pass when both bounds hold. A comparison of no token is no evidence; a bound below the noise fails."""
        report = case.evidence.need(case.evidence.reports.parity, layout.PARITY_REPORT)
        if report.positions == 0:
            return failed(case.name, self, f"no evidence: {layout.PARITY_REPORT} compared no token")
        noise = case.evidence.reports.noise
        if (
            noise is not None
            and noise.base == report.base
            and self.max_logprob_diff < noise.max_logprob_diff
        ):
            return failed(
                case.name, self,
                f"a bound of {self.max_logprob_diff:g} nats means nothing: one unchanged model differs from itself by "
                f"{noise.max_logprob_diff:.3f} in other batches; set gates.{case.name}.max_logprob_diff above that",
            )  # fmt: skip
        failures = [
            *problems(
                (
                    not report.max_logprob_diff <= self.max_logprob_diff,
                    f"log-probabilities differ by up to {report.max_logprob_diff:.3f}, above {self.max_logprob_diff:g}",
                ),
                (
                    not report.top1 >= self.min_top1,
                    f"the best token agrees at {report.top1:.1%} of positions, below {self.min_top1:.1%}",
                ),
            )
        ]
        summary = (
            f"merged and adapter differ by at most {report.max_logprob_diff:.3f} nats and agree on "
            f"{report.top1:.1%} of {report.positions} tokens"
        )
        return Finding(
            gate=case.name, kind=self.kind, status="fail" if failures else "pass",
            reason="; ".join(failures) or summary,
            metric="max_logprob_diff", value=report.max_logprob_diff, bound=self.max_logprob_diff, n=report.positions,
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Both bounds, and the difference that was reached."""
        reach = "" if finding.value is None else f" ({finding.value:.4g} is reached)"
        return Explained(
            f"on real prompts, do merged model and adapter differ by at most {self.max_logprob_diff:g} nats at every "
            f"token, and name the same likeliest token at {self.min_top1:.1%} or more?",
            f"by rule: both bounds hold over all {finding.n or 0} tokens",
            f"{place}.max_logprob_diff{reach} or {place}.min_top1; more tokens: merge.parity.prompts",
            layout.PARITY_REPORT.as_posix(),
        )
