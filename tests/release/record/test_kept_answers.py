"""The answers in reports/answers are those of this repository's record; how they are used: test_reference_answers.py."""

import json

from checks.formats.evaluation_reports import EvaluationReport
from checks.storage import digest, files, layout
from release.record import folder_lists, kept_answers, pipeline_lock
from release.record.records import WorkTree
from tests.conftest import REPOSITORY


def test_git_keeps_the_answers_of_this_record() -> None:
    answers, listed = (REPOSITORY / path for path in sorted(kept_answers.PATHS))
    report = files.read_json(REPOSITORY / layout.EVALUATION, EvaluationReport)
    assert digest.of_file(answers).sha256 == report.models["candidate"].predictions
    outputs = dict(pipeline_lock.files(WorkTree(REPOSITORY).lock["evaluate"], ("outs",)))
    assert f"{folder_lists.md5_of(listed.read_bytes())}.dir" == outputs[layout.PREDICTIONS.as_posix()]
    names = {entry["relpath"]: entry["md5"] for entry in json.loads(listed.read_bytes())}
    assert names[answers.name] == folder_lists.md5_of(answers.read_bytes())
