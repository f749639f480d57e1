"""sealed: asks the models the rows of the sealed split, and says by one word whether the sealed gates pass.

In:  release/policy/sealed.bin and its key in the environment (LOCKSTEP_SEALED_KEY); the reports, the train split and
     the weights of the record; params ``sealed`` and ``evaluate``.
Out: ``pass`` or ``fail`` on standard output. Nothing else: no file, no score, no row, and no cache of answers.
Run: `lockstep sealed ask` does so, counts the look and signs it. It is not a stage of dvc.yaml.

The rows are decrypted in memory. What goes wrong while they are asked is reported without its message, which may quote
one of them.
"""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from checks.config.params import Params
from checks.config.sealed import VARIABLE, decrypt
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats import thinking
from checks.formats.evidence import Evidence
from checks.formats.suite_report import ROLES, Role
from checks.gating import chain, compared
from checks.gating.compared import Compared, PairedGate
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused
from checks.records.rows import Prediction, Row
from checks.storage import layout
from stages import entry
from stages.evaluate import predict
from stages.inference import answers, thoughts
from stages.suite_models import SuiteModels


def sealed(params: Params, root: Path) -> str:
    """Print the bit. Raises EvidenceRefused where the gates cannot be decided, which is known without a row."""
    if params.sealed is None:
        raise ParamsRefused(
            f"{layout.PARAMS}: has no section sealed", "add one: docs/how-to/sealed.md"
        )
    if not (key := os.environ.get(VARIABLE)):
        raise EvidenceRefused(
            f"{VARIABLE}: is not set", "run this where the key is: docs/how-to/sealed.md"
        )
    try:
        data = (root / layout.SEALED).read_bytes()
    except OSError as error:
        raise EvidenceRefused(
            f"{layout.SEALED}: {error.strerror}", "check out the target branch"
        ) from error
    rows = decrypt(data, key, params.sealed)
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    asked = params.model_copy(update={"gates": params.sealed.decided})
    _can_be_decided(asked, evidence)
    given = _given(params, root, rows, _roles(asked, evidence))
    with _unquoted():
        verdict = judging.judge(asked, replace(evidence, test=tuple(rows), answers=given))
    click.echo("pass" if verdict.status == "pass" else "fail")
    return "asked"


def _can_be_decided(asked: Params, evidence: Evidence) -> None:
    """Refuse what fails whatever the rows are, by deciding the same gates on the test rows: that would waste a look."""
    for finding in judging.judge(asked, evidence).findings:
        if finding.status != "pass" and finding.value is None:
            raise EvidenceRefused(
                f"sealed.gates.{finding.gate}: {finding.reason}",
                "mend that first: no look was used",
            )


def _roles(asked: Params, evidence: Evidence) -> list[Role]:
    """The candidate, and the earlier models that gates compare it with."""
    compared_models = (
        compared.reference(name, gate, evidence)
        for name, gate in asked.gates.items()
        if isinstance(gate, PairedGate)
    )
    models = {reference.model for reference in compared_models if isinstance(reference, Compared)}
    return ["candidate", *(role for role in ROLES if role in models)]


def _given(
    params: Params, root: Path, rows: Sequence[Row], roles: Sequence[Role]
) -> dict[str, tuple[Prediction, ...]]:
    """Return what the model of each role answers. Two of them may be one model, which is asked once."""
    models = SuiteModels.of(root)
    predictions = dict[str, tuple[Prediction, ...]]()
    for role in roles:
        model = models.digests[role]
        if model not in predictions:
            with models.weights(role) as folder:
                predictions[model] = _answers(params, root, folder, role, rows)
    return {role: predictions[models.digests[role]] for role in roles}


def _answers(
    params: Params, root: Path, folder: Path, role: Role, rows: Sequence[Row]
) -> tuple[Prediction, ...]:
    """Return what the model in ``folder`` answers, past the cache of answers."""
    model = answers.loaded(root, params.evaluate, folder, log=False)
    with _unquoted():
        answered = model(
            params.evaluate, rows, [row.messages for row in rows], f"{role}, sealed", layout.SEALED
        )
    del model
    gc.collect()  # the next model loads into this one's memory
    with _unquoted():
        answered = thoughts.divided(answered, root / layout.MERGED)
        return tuple(predict(params, rows, answered, thinking.of_model(root / layout.MERGED)))


@contextmanager
def _unquoted() -> Iterator[None]:
    """Turn whatever goes wrong into a refusal that quotes no row."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, its message may quote a row
        raise EvaluationRefused(
            f"{layout.SEALED}: could not be asked ({type(error).__name__}; its message may quote a row)",
            "see whether `./lockstep run evaluate` works, which asks the test rows so; else a row may be too long",
        ) from None


if __name__ == "__main__":
    entry.run("sealed", sealed)
