"""Models that test splits judged, of a long history."""

import pytest

from checks.formats.looks import LooksReport
from checks.storage import digest, layout
from release.record import judged_models
from release.record.judged_models import Look


def test_a_look_is_made_once_however_many_lists_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[Look]()

    def counted(test: str, model: str) -> Look:
        made.append(Look(test, model))
        return made[-1]

    monkeypatch.setattr(judged_models, "Look", counted)
    test, models = digest.of_bytes(b"test"), [digest.of_bytes(b"%d" % number) for number in range(40)]
    lists = [LooksReport(models={test: tuple(models[:count])}).model_dump_json().encode() for count in range(1, 41)]
    known = judged_models.of({layout.LOOKS: lists})
    assert known.looks == {Look(test, model) for model in models}
    assert len(made) == len(models)
