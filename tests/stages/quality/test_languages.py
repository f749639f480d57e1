"""Languages of rows: a real detector, and texts that it judges, does not judge, and calls foreign."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from checks.config.pipeline_params import Languages
from checks.formats.data_reports import DataReport
from checks.formats.data_statistics import OtherLanguage
from checks.process.errors import DataRefused, MachineRefused, ParamsRefused
from checks.storage import files, layout
from release.cards import data_page
from release.cards.data_page import gather as data
from stages.quality import expectations, languages
from stages.quality.documents import Texts
from stages.quality.rows_frames import Read
from stages.validate import validate
from tests.stages.test_validate import Splits, _good, _params, _row, _write
from tests.stages.test_validate import root as root  # a fixture

pytestmark = pytest.mark.slow

ENGLISH = [
    "Show me all virtual machines that were stopped last week",
    "Delete the storage account that nobody has used since March",
    "Which of our databases are reachable from the public internet?",
    "Create a new key vault in the resource group of the web team",
]
GERMAN = "Zeige mir alle virtuellen Maschinen, die letzte Woche gestoppt wurden"
FRENCH = "Supprime le compte de stockage que personne n'utilise depuis le mois de mars"
DANISH = "Vis mig alle virtuelle maskiner, som blev stoppet i sidste uge, og slet dem"


@pytest.fixture(autouse=True)
def _detector() -> None:
    pytest.importorskip("py3langid", reason="pip install -c constraints.txt -e '.[languages]'")


def _section(**change: Any) -> dict[str, Any]:
    found = {"expected": ["en"], "texts": ["request"], "min_characters": 20, "min_probability": 0.7, "max_share": 0.0}
    return found | change


def _config(**change: Any) -> Languages:
    return Languages.model_validate(_section(**change))


def _judged(texts: Sequence[str], config: Languages, documents: Sequence[str] = ()) -> languages.Found:
    where = [f"data/splits/train.jsonl:{line}" for line in range(1, len(texts) + 1)]
    split = Read({"where": where, "id": list(where)}, [*reversed(texts)], [*texts], [], {}, [], [])
    names = [f"document {place}" for place, _ in enumerate(documents)]
    found = languages.judge(
        config, languages.load(config), {"train": split}, Texts(names, names, [*documents], {}, [], 0)
    )
    assert found is not None
    return found


TEXTS: dict[str, str | None] = {
    **dict.fromkeys(ENGLISH, "en"),
    GERMAN: "de",
    FRENCH: "fr",
    "Покажи все виртуальные машины, которые остановили на прошлой неделе": "ru",
    "先週停止したすべての仮想マシンを表示してください": "ja",
    "vm list": None,  # too short
    "   vm                       list   ": None,  # long enough, and no words of a language
    "Storage sku and dns zone": None,  # the detector is not sure
    "az aks nodepool add -g rg1 --cluster-name c1": None,  # a command
    '{"a": 1, "b": [2, 3], "c": {"d": null}} 0x00ff 0x7f3a': None,  # the detector is sure that it is no language
    "": None,
}


def test_a_text_is_judged_only_if_the_detector_is_sure() -> None:
    found = _judged([*TEXTS], _config())
    said = {line: language for line, language in enumerate(TEXTS.values(), 1) if language}
    others = {int(other.where.rpartition(":")[2]): other.language for other in found.others}
    judged = (int(where.rpartition(":")[2]) for where in found.frames["requests by language"]["where"])
    assert {line: others.get(line, "en") for line in judged} == said
    counts = found.statistics.texts["request"]
    assert counts.languages == {"en": 4, "de": 1, "fr": 1, "ja": 1, "ru": 1}
    assert (counts.judged, counts.not_judged, counts.others, list(counts.rows)) == (8, 6, 4, found.others)


def test_relatives_that_are_all_expected_do_not_compete() -> None:
    alone, both = (_judged([DANISH], _config(expected=codes, min_probability=0.97)) for codes in (["da"], ["da", "no"]))
    assert (alone.statistics.texts["request"].judged, both.statistics.texts["request"].judged) == (0, 1)


def test_each_kind_of_text_is_judged_on_its_own_and_the_surest_others_come_first() -> None:
    found = _judged(
        [*ENGLISH, "Liste des groupes de ressources", GERMAN], _config(texts=["request", "document"]), [FRENCH]
    )
    assert {kind: (each.judged, each.others) for kind, each in found.statistics.texts.items()} == {
        "request": (6, 2),
        "document": (1, 1),
    }
    assert sorted(other.probability for other in found.others) == [
        other.probability for other in reversed(found.others)
    ]
    frame = found.frames["requests by language"]
    assert [said and said[:2] for said in frame["other_language"]] == ["de", "fr", None, None, None, None]
    assert frame["where"][:2] == ["data/splits/train.jsonl:6", "data/splits/train.jsonl:5"]
    assert {"document 0"} == {other.where for other in found.others if other.text == "document"}
    references = _judged([*ENGLISH, GERMAN], _config(texts=["reference"]))
    assert [other.where for other in references.others] == ["data/splits/train.jsonl:1"]


def _plant(splits: Splits) -> None:
    """Six judged rows, of which two are not English."""
    for place, text in enumerate((*ENGLISH, GERMAN, FRENCH)):
        splits["train"][place] = _row(place, prompt=text)


def test_too_many_of_them_are_refused_and_the_report_names_the_detector_and_the_file_every_row(root: Path) -> None:
    _write(root, _good(_plant))
    with pytest.raises(DataRefused, match=rf"requests by language: at most 30\.0% .*; look at {languages.FILE}"):
        validate(_params(languages=_section(min_characters=40, max_share=0.3)), root)
    assert not (root / layout.SEAL).exists()
    report = files.read_json(root / layout.DATA_REPORT, DataReport)
    assert report.statistics is not None
    assert report.statistics.languages is not None
    by = report.statistics.languages.detector
    assert by.name == "py3langid"
    (outcome,) = [each for each in report.expectations if not each.success]
    assert outcome.name.endswith(f"than en, by py3langid {by.version} {by.sha256}")
    assert (outcome.observed, outcome.unexpected) == ("2 of 6 rows", 2)
    found = files.read_jsonl(root / languages.FILE, OtherLanguage)
    assert {(row.where, row.language, row.shown) for row in found} == {
        ("data/splits/train.jsonl:5", "de", GERMAN),
        ("data/splits/train.jsonl:6", "fr", FRENCH),
    }
    page = data_page.render(data(root))
    for said in (
        "62 requests were not judged. 6 were: en 4, de 1, fr 1. 2 of those 6 are",
        f"py3langid {by.version}",
        GERMAN,
    ):
        assert said in page


@pytest.mark.parametrize(
    ("change", "some", "few"),
    [
        ({"max_share": 0.34}, True, True),
        ({"max_share": 0.33}, True, False),
        ({"min_characters": 500}, False, True),  # of none nothing is known
    ],
)
def test_the_bound_is_a_share_of_the_judged_texts_and_some_must_be_judged(
    change: dict[str, Any], some: bool, few: bool
) -> None:
    config = _config(**change)
    found = _judged([*ENGLISH, "vm list", "az", GERMAN, FRENCH], config)
    outcomes = expectations.run(languages.suites(config, found), found.frames, None)
    assert [each.success for each in outcomes] == [some, few]


def test_a_language_that_the_detector_does_not_know_is_refused() -> None:
    with pytest.raises(
        ParamsRefused, match=r"expected: py3langid \S+ does not know xq, zxx; use codes of these: ace, af"
    ):
        _judged(ENGLISH, _config(expected=["en", "xq", "zxx"]))


def test_without_the_detector_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MachineRefused, match=r"validate\.languages needs py3langid, .*; pip install .*\[languages\]"):
        _judged(ENGLISH, _config())
