"""The mark, the headline and the next step: one table of situations, which every renderer prints.

``advise`` is a pure function of a ``Situation``, whose fields are plain values: the comment, the check, the terminal,
the release page and ``--json`` show what it returns. The mark says what the reader should do, not what the gates found:
✅ go on, ⚠️ a person decides, ❌ change the model, the data or the parameters, 🚫 do not use what is here as it is.
"""

import re
from typing import Literal, NamedTuple

from checks.formats.verdict import Finding, Status
from checks.records.rows import Record
from release.pages.figures import without_p
from release.pages.words import Prose, Words

Mark = Literal["✅", "⚠️", "❌", "🚫"]
Name = Literal[
    "quarantined", "data-refused", "parameters-refused", "refused", "behind", "not-run", "not-held", "recorded",
    "waits", "weaker-policy", "fail", "inconclusive", "not-on-branch", "uncompared", "worse", "same", "better", "pass",
]  # fmt: skip
Place = Literal["pull request", "work tree", "release"]
_PASSES = ("pass", "better", "same", "worse", "uncompared")
_DECIDED = (*_PASSES, "waits", "weaker-policy", "fail", "inconclusive")
_NOT_BETTER = {
    "worse": "pass, but worse than main",
    "alike": "pass, but no difference to main is shown",
    "same": "pass, but it is the model that main has",
}
_GATES = 3  # gates that a headline names
_UNDER = "\n\n"


class Standing(NamedTuple):
    """How the model stands beside another, called ``name``. Figures are differences of the first metric, in [-1, 1].

    ``allowed``: the loss that a gate allows against it; None: no gate compares with it.
    """

    name: str
    how: Literal["better", "worse", "alike", "same", "absent", "unknown"]
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    allowed: float | None = None


class Refused(NamedTuple):
    """A refusal before a verdict. ``by``: the stage or verb. ``machine``: the machine was the cause."""

    by: str
    what: str
    todo: str
    machine: bool = False


class Situation(NamedTuple):
    """The facts that decide the mark.

    ``held``: every gate was evaluated again, and the record is that of these files. ``status``: under every policy that
    counts; ``own``: under the work tree's alone. ``failing``: the gates that decided.
    ``standings``: main first. ``uncompared``: why main's answers could not be compared. ``quarantined``: version and
    reason. ``refused`` with ``of`` "data" or "parameters": the splits or params.yaml were refused. ``behind``: commits
    of ``target`` that this branch lacks, if they change what decides. ``unrun``: parameters that no run had.
    ``void``: why the verdict does not hold. ``missing``: files that are needed to judge again. ``off_branch``: what the
    judged commit lacks. ``weaker``: what a merge does to the policy; ``waits``: both policies pass, an owner has not
    approved. ``new_server``: main's weights get another one. ``change``: the first change of policy.
    """

    place: Place = "pull request"
    target: str = "main"
    held: bool = True
    status: Status | None = None
    own: Status | None = None
    failing: tuple[Finding, ...] = ()
    standings: tuple[Standing, ...] = ()
    uncompared: str = ""
    quarantined: tuple[str, str] | None = None
    refused: Refused | None = None
    of: Literal["data", "parameters", ""] = ""
    behind: int = 0
    unrun: tuple[str, ...] = ()
    void: str = ""
    missing: tuple[str, ...] = ()
    off_branch: Words | None = None
    weaker: str = ""
    waits: bool = False
    new_server: bool = False
    change: str = ""
    why_policy: str = ""


class Advised(Record):
    """Mark, headline, reason and next step as plain text."""

    mark: Mark
    headline: str
    why: str
    todo: str


class Advice(NamedTuple):
    """The lines that a reader sees first. ``success``: the value of the check."""

    name: Name
    mark: Mark
    headline: Words
    why: Words
    todo: Words
    success: bool

    @property
    def heading(self) -> Words:
        """Mark and headline."""
        return Words(f"{self.mark} {self.headline.text}", self.headline.values)

    @property
    def title(self) -> str:
        """Mark and headline as one line of text."""
        return self.heading.plain

    @property
    def plain(self) -> Advised:
        """All of it as plain text."""
        return Advised(
            mark=self.mark, headline=self.headline.plain, why=self.why.plain, todo=self.todo.plain
        )


class Row(NamedTuple):
    """The advice of a situation, with names of its values in braces."""

    mark: Mark
    headline: str
    why: str
    todo: str


_RUN = "run `./lockstep run`, commit `code.lock`, `dvc.lock` and `reports/`, and push."
_SHIPS = "These weights are released as they are: nothing is trained again."
_SERVER = (
    " The weights stay those of main, in another server. After the merge, `./lockstep build` and `./lockstep verify "
    "--against ENV` compare it with the one that runs."
)
TABLE: dict[Name, Row] = {
    "quarantined": Row(
        "🚫", "Quarantined: {reason}",
        "{version} had these weights, and no environment may run them. The gates say {status}.",
        "train another model; or, if the fault was not in the weights, {unquarantine} allows them again.",
    ),
    "data-refused": Row(
        "❌", "Data refused: {what}", "Nothing was trained, and there is no verdict.",
        "fix the source, or a rule or bound in `params.yaml` under `prepare` and `validate`, and push. "
        "`./lockstep run validate` checks again in minutes, without a GPU.",
    ),
    "parameters-refused": Row("❌", "Parameters refused: {what}", "", "correct `params.yaml`, and push: {todo}"),
    "refused": Row("❌", "{by} refused: {what}", "", "{todo}{machine}"),
    "behind": Row(
        "🚫", "{behind} behind {target}: merge {target} first",
        "Since this branch left it, {target} has changed parameters or its model. So nothing here is compared with "
        "what {target} is now.{gates_here}",
        "run these two lines: the record that fits is taken whole, and the next run makes anew what does not." + _UNDER
        + "```bash\ngit fetch && git merge {merged}\n"
        "./lockstep resolve && git commit --no-edit; git push\n```",
    ),
    "not-run": Row(
        "🚫", "Not run yet: {unrun} changed since the last run", "The record is of a run with other parameters.", _RUN
    ),
    "not-held": Row("🚫", "The verdict does not hold: {void}", "", _RUN),
    "recorded": Row(
        "🚫", "Not judged here",
        "The record says {status}, and what is needed to judge it again is missing: {missing}.",
        "fetch it, and run this again: `./lockstep dvc pull data/splits data/predictions data/suites "
        "data/judgements data/learned.jsonl data/probes.json`",
    ),
    "waits": Row(
        "⚠️", "Pass, but {weaker} after this: a code owner decides", "{change}",
        "let a code owner decide, since later pull requests are judged by this policy too: {approve}. Or restore "
        "the policy of {target}.{server}",
    ),
    "weaker-policy": Row(
        "❌", "{Status} under the policy of {target}",
        "Only the policy of this branch lets it pass. {first}",
        "{lost}restore the policy of {target}, or let code owners approve this one: {approve}.",
    ),
    "fail": Row(
        "❌", "Fail{worse_than}", "{first}",
        "do not merge. Read {newly_wrong}, change the data or the training that made them so, and push: only what "
        "changed runs again. {explain} says what would change the result.",
    ),
    "inconclusive": Row(
        "⚠️", "Inconclusive{gates_named}: {undecided}", "{first}",
        "{rows}; then push. {explain} says what would change the result.",
    ),
    "not-on-branch": Row(
        "🚫", "Pass, and the record is not on the branch", "{off_branch}",
        "find out why `./lockstep record` did not commit it, and run again; or commit `code.lock`, `dvc.lock` and "
        "`reports/` from here, and push.",
    ),
    "uncompared": Row(
        "⚠️", "Pass, not compared with {main}", "Of {main}: {uncompared}.",
        "compare it first: `./lockstep dvc push` in a checkout of main that has its data, then `./lockstep run` here. "
        "No gate of this policy compares with main.",
    ),
    "worse": Row(
        "⚠️", "Pass, and worse than {worse}", "The gates allow this loss.", "merge it only if a worse model is intended."
    ),
    "same": Row("✅", "Pass · the same model as {main}", "", "merge it.{released}{server}"),
    "better": Row("✅", "Pass · better than {better}", "", f"merge it. {_SHIPS}"),
    "pass": Row("✅", "Pass{beside}", "", f"merge it. {_SHIPS}"),
}  # fmt: skip
_COMMIT = "commit `code.lock`, `dvc.lock` and `reports/` with the change that made them, and open a pull request."
# What is done elsewhere than in a pull request, where that is something else.
_ELSEWHERE: dict[tuple[Place, Name], str] = {
    ("release", "quarantined"): "run another release.",
    **{("work tree", name): _COMMIT for name in ("pass", "better", "same")},
    ("work tree", "worse"): f"only if a worse model is intended, {_COMMIT}",
    ("work tree", "not-run"): "run `./lockstep run`.",
    ("release", "pass"): "run it: see Try it.",
    **{
        ("release", name): "promote another release that passes."
        for name in ("fail", "inconclusive")
    },
}


def advise(situation: Situation) -> Advice:
    """The mark, headline, reason and next step of a situation."""
    name = _name(situation)
    row = TABLE[name]
    todo = _ELSEWHERE.get((situation.place, name), row.todo)
    values = _values(situation)
    mark = "⚠️" if name == "weaker-policy" and situation.status == "inconclusive" else row.mark
    headline, why, last = (
        Words(text, values) if text else Words("") for text in (row.headline, row.why, todo)
    )
    return Advice(name, mark, headline, why, last, name in _PASSES)


def not_better(situation: Situation, advice: Advice) -> str:
    """Return why the model is not better than main's. Empty if it is, or if that is not decided on this commit."""
    if advice.name not in _DECIDED or situation.off_branch:
        return ""
    if advice.name != "waits" and situation.status != "pass":
        return advice.headline.plain
    main = _standing(situation, "main")
    return _NOT_BETTER.get(main.how, "") if main else ""


def _name(situation: Situation) -> Name:
    """The situation's name: the first that applies, the one that a reader must settle first."""
    status, main = situation.status, _standing(situation, "main")
    hows = {standing.how for standing in situation.standings}
    cases: tuple[tuple[object, Name], ...] = (
        (situation.quarantined, "quarantined"),
        (situation.refused and situation.of == "data", "data-refused"),
        (situation.refused and situation.of == "parameters", "parameters-refused"),
        (situation.refused, "refused"),
        (situation.behind, "behind"),
        (situation.void and situation.unrun, "not-run"),
        (situation.void, "not-held"),
        (not situation.held, "recorded"),
        (situation.waits, "waits"),
        (status != "pass" and situation.own == "pass", "weaker-policy"),
        (status == "inconclusive", "inconclusive"),
        (status != "pass", "fail"),
        (situation.off_branch, "not-on-branch"),
        (situation.uncompared, "uncompared"),
        (main and main.how == "same", "same"),
        ("worse" in hows, "worse"),
        ("better" in hows, "better"),
    )
    return next((name for applies, name in cases if applies), "pass")


def _standing(situation: Situation, name: str) -> Standing | None:
    return next((standing for standing in situation.standings if standing.name == name), None)


def _values(situation: Situation) -> dict[str, str | int | Words]:
    """The values of the table's names; those of other situations are empty."""
    refused = situation.refused or Refused("", "", "")
    version, reason = situation.quarantined or ("", "")
    names = [finding.gate for finding in situation.failing]
    explain = f"./lockstep gate --explain {names[0]}" if names else "./lockstep gate"
    again = (
        "; then run the job again. The cause is the machine, not the change."
        if refused.machine
        else ""
    )
    status = situation.status or "nothing"
    worse = next((standing for standing in situation.standings if standing.how == "worse"), None)
    named = Words(": {gates}", {"gates": _listed(tuple(names))}) if names else Words("")
    main = _standing(situation, "main")
    lost = main is not None and main.how == "worse"
    undecided = (
        "not measured yet" if _is_unmeasured(situation) else "these rows are too few to decide"
    )
    # The branch to merge is a word of a shell.
    target = situation.target
    better = [standing.name for standing in situation.standings if standing.how == "better"]
    return {
        "reason": Prose(reason), "version": version,
        "unquarantine": f"./lockstep quarantine --release {version} --why TEXT",
        "status": Words(status), "Status": Words(status.capitalize()), "what": Prose(refused.what),
        "by": Words(refused.by), "todo": Prose(refused.todo), "machine": Words(again),
        "behind": Words(f"{situation.behind:,} commit{'s' * (situation.behind > 1)}"), "target": target,
        "merged": Words(target if re.fullmatch(r"[\w/.-]+", target) else "origin/HEAD"),
        "gates_here": _here(situation),
        "unrun": _listed(situation.unrun), "void": Prose(situation.void),
        "missing": _listed(situation.missing), "weaker": Words(situation.weaker), "change": Prose(situation.change),
        "gates_named": named,
        "first": _first(situation), "undecided": Words(undecided), "explain": explain, "rows": _rows(situation),
        "uncompared": Prose(situation.uncompared),
        "approve": Words("this report has the entry for `release/policy/approved.yaml`"),
        "lost": Words("train a model that is no worse than main; or " * lost), "main": Words("main"),
        "off_branch": situation.off_branch or Words(""),
        "newly_wrong": Words("the answers that became wrong" if worse else "the answers that are wrong"),
        "worse_than": Words(", worse than {by}", {"by": _by(worse)}) if worse else named, "worse": _by(worse),
        "better": Words(" and ".join(better)), "beside": _beside(situation),
        "server": Words(_SERVER * situation.new_server),
        "released": Words(" Nothing that is released changes." * (not situation.new_server)),
    }  # fmt: skip


def _listed(names: tuple[str, ...]) -> Words:
    """The first names, and how many more there are."""
    shown = {f"name{number}": name for number, name in enumerate(names[:_GATES])}
    more = f" and {len(names) - _GATES} more" if len(names) > _GATES else ""
    return Words(f"{', '.join(f'{{{name}}}' for name in shown)}{more}", shown)


def _here(situation: Situation) -> Words:
    """Say what is known of the record without the target's changes."""
    if situation.void:
        return Words(" The verdict does not hold here: {void}.", {"void": Prose(situation.void)})
    return Words(f" The gates say {situation.status} here." if situation.status else "")


def _first(situation: Situation) -> Words:
    """Why the first gate decided as it did, or why the policy does."""
    if not situation.failing:
        return (
            Words("{why}.", {"why": Prose(situation.why_policy)})
            if situation.why_policy
            else Words("")
        )
    finding, *others = situation.failing
    more = f" {len(others)} more gate{'s' * (len(others) > 1)} below." if others else ""
    return Words(
        f"{{gate}}: {{reason}}.{more}",
        {"gate": finding.gate, "reason": Prose(without_p(finding.reason))},
    )


def _rows(situation: Situation) -> Words:
    """Say what else would decide: how many rows, if a gate names a number."""
    if _is_unmeasured(situation):
        return Words("do what the gate's reason says")
    better = ", or train a better model"
    if {finding.kind for finding in situation.failing} == {"remembers"}:
        return Words(f"lower {{parameter}}{better}", {"parameter": "train.learning_rate"})
    needed = [finding for finding in situation.failing if finding.rows_needed]
    if not needed:
        return Words(f"add test rows{better}")
    most = max(needed, key=lambda finding: finding.rows_needed or 0)
    groups = f" in {most.groups_needed:,} groups like these" if most.groups_needed else ""
    return Words(f"add test rows: about {most.rows_needed:,}{groups} would decide{better}")


def _is_unmeasured(situation: Situation) -> bool:
    """Tell whether no gate that is undecided has a figure, as where the noise of evaluations is not known."""
    return bool(situation.failing) and all(
        finding.value is None and not finding.rows_needed for finding in situation.failing
    )


def _by(standing: Standing | None) -> Words:
    if standing is None:
        return Words("")
    allowed = "" if standing.allowed is None else f"; {100 * standing.allowed:.3g} allowed"
    low, high = 100 * -standing.high, 100 * -standing.low
    return Words(
        f"{standing.name} by {-100 * standing.value:.1f} points ({low:.1f} to {high:.1f}{allowed})"
    )


def _beside(situation: Situation) -> Words:
    main = _standing(situation, "main")
    if main is None:
        return Words("")
    sentences = {"alike": " · no difference to main is shown", "absent": " · main has no model yet"}
    return Words(sentences.get(main.how, ""))
