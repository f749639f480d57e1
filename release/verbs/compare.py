"""compare: two records side by side: scores on the same rows, parameters, data, cost, and the answers that differ.

Reads git, the work tree and DVC's outputs, and changes none of them. It decides nothing: gates do.
"""

from pathlib import Path

from checks.process.errors import EvidenceRefused
from release.record import record_names
from release.record.records import Records
from release.review import side_by_side
from release.review.comparison import Comparison
from release.review.sides import Side


def compare(
    root: Path, one: str, two: str = record_names.WORK_TREE, search: str | None = None
) -> Comparison:
    """Compare the record that ``one`` names with that of ``two``: see ``record.named``.

    ``search``: keep only answers that contain this text, in any case. Raises as ``named.find``, and EvidenceRefused if
    one of them has neither parameters nor an evaluation.
    """
    records = Records(root)
    a, b = (
        Side(records, record_names.find(records, name), letter)
        for name, letter in ((one, "A"), (two, "B"))
    )
    for side in (a, b):
        if side.document is None and side.evaluation is None:
            why = (
                side.notes[0].removeprefix(f"{side.letter}: ")
                if side.notes
                else "has neither parameters nor a record"
            )
            raise EvidenceRefused(
                f"{side.letter}: {side.where}: {why}",
                "name a commit of this pipeline; `lockstep record` makes records",
            )
    compared = side_by_side.compare(a, b)
    return compared if search is None else _containing(compared, search)


def _containing(compared: Comparison, search: str) -> Comparison:
    wanted = search.casefold()
    kept = {
        field: tuple(
            answer for answer in answers if any(wanted in text.casefold() for text in answer.texts)
        )
        for field, answers in (("answers", compared.answers), ("alike", compared.alike))
    }
    return compared.model_copy(update=kept)
