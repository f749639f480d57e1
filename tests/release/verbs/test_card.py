"""card: the model card, the dataset card and the write-up, and what refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import DatasetCard, ModelCard

from checks.formats import placeholder_cards
from checks.formats.decoding import Decoding
from checks.formats.evaluation_reports import EvaluationReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.cards import card_facts, card_record, hub_metadata, writing
from release.cli import main
from release.verbs.card import card
from tests import page_tree
from tests import promotion_tree as tree

pytestmark = pytest.mark.slow  # three releases are made

alone = tree.alone
PROSE = "# Words\n\n## Intended use\n\nA test.\n\n## Limits\n\nMany.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.copy(page_tree.ledger(), tmp_path / "work")


def edit(root: Path, path: Path, text: str | None) -> None:
    (root / path).unlink()
    if text is not None:
        (root / path).write_text(text)


def test_the_hubs_own_classes_read_what_the_record_says(root: Path) -> None:
    model, data, *_ = card(root, root / writing.FOLDER)
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    found = ModelCard.load(model)
    (result,) = found.data.eval_results or []
    mean = report.models["candidate"].metrics["exact-match"]
    assert (result.metric_type, result.metric_value, result.dataset_revision) == (
        "exact-match",
        mean.value,
        report.test,
    )
    assert result.metric_args == {"confidence": 0.95, "low": mean.low, "high": mean.high, "rows": 40}
    assert (found.data.license, found.data.language, found.data.library_name) == ("apache-2.0", "en", "transformers")
    assert found.data.tags == ["lora", "lockstep", "azure-cli"]
    assert f"0.750 [{mean.low:.3f}, {mean.high:.3f}]" in found.text
    others = DatasetCard.load(data).data
    assert (others.license, others.size_categories) == ("mit", ["n<1K"])
    assert others.configs[0]["data_files"][1] == {"split": "validation", "path": "valid.jsonl"}


COUNTED = {
    "counted": [{"kind": "nvml", "device": "0: NVIDIA L4", "joules": 7.2e6}, {"kind": "rapl", "device": "package-0", "joules": 3.6e5}],
    "missing": ["memory: RAPL has no counter of it here"],
}  # fmt: skip
CARBON = "---\ncarbon: {g_per_kwh: 55, source: 'grid operator, mean of 2025'}\n---\n"
COSTS: dict[str, tuple[dict[str, Any] | None, str, list[str], dict[str, Any] | None]] = {
    "measured, and the electricity is known": (
        COUNTED, CARBON,
        [
            "It used **2.1 kWh**, as counters of the hardware measured", "- GPU `0: NVIDIA L4`: 7,200,000 J\n",
            "the making of the devices; `memory: RAPL has no counter of it here`.",
            "That is **116 g of CO2e**, at 55 g per kWh (grid operator, mean of 2025).",
        ],
        {
            "emissions": 116.0, "source": "measured energy; grid operator, mean of 2025", "training_type": "fine-tuning",
            "hardware_used": "cpu",
        },
    ),
    "measured, and the electricity is not known": (
        COUNTED, "", ["**2.1 kWh**", "No emissions are claimed: nobody stated the carbon intensity"], None,
    ),
    "not measured, although the electricity is known": (
        {"missing": ["GPUs: NVML: Not Supported"]}, CARBON,
        ["Energy was not measured, so no emissions are claimed: `GPUs: NVML: Not Supported`."], None,
    ),
    "of an older version": (None, "", ["Energy was not measured, so no emissions are claimed."], None),
}  # fmt: skip


@pytest.mark.parametrize("case", COSTS.values(), ids=COSTS)
def test_the_card_claims_the_energy_that_was_measured_and_emissions_only_by_a_stated_source(
    root: Path, case: tuple[dict[str, Any] | None, str, list[str], dict[str, Any] | None]
) -> None:
    energy, front, says, metadata = case
    measured = json.loads((root / layout.TRAIN_MEASURED).read_text())
    (root / layout.TRAIN_MEASURED).write_text(json.dumps(measured | ({"energy": energy} if energy else {})))
    edit(root, card_facts.MODEL, f"{front}{PROSE}")
    model, _, report, _ = card(root, root / writing.FOLDER)
    for text in (ModelCard.load(model).text, report.read_text()):
        assert [each for each in says if each not in text] == []
        assert ("CO2e" in text) == (metadata is not None)
    assert ModelCard.load(model).data.to_dict().get("co2_eq_emissions") == metadata


@pytest.mark.parametrize(
    "said",
    ["55", "{g_per_kwh: 55}", "{g_per_kwh: -1, source: s}", "{g_per_kwh: '55', source: s}", "{g_per_kwh: 5, source: ' '}",
     "{g_per_kwh: .nan, source: s}", "{g_per_kwh: 5, source: s, more: 1}", "null"],
)  # fmt: skip
def test_a_carbon_intensity_without_number_and_source_is_refused(said: str) -> None:
    front = yaml.safe_load(f"carbon: {said}")
    with pytest.raises(EvidenceRefused, match=r"docs/cards/model\.md: carbon is .*") as found:
        card_facts.carbon_of(front, card_facts.MODEL, None)
    assert "write carbon: {g_per_kwh: NUMBER, source: where" in found.value.todo


def test_every_card_names_its_files_of_the_record_by_digest(root: Path) -> None:
    for made in card(root, root / writing.FOLDER)[:3]:
        text = made.read_text()
        for path in (layout.EVALUATION, layout.TRAIN_REPORT, layout.PREPARE_REPORT, layout.VERDICT):
            assert f"| `{path}` | `{digest.of_file(root / path).sha256}` |" in text


def test_a_release_has_the_cards_of_its_own_record(root: Path, tmp_path: Path) -> None:
    for name, value in (("v0.1.0", 33 / 40), ("production", 36 / 40)):
        model, _, report, _ = card(root, tmp_path / name, name)
        assert (ModelCard.load(model).data.eval_results or [])[0].metric_value == value
        assert "oci:.lockstep/image@sha256:" in report.read_text()
    with pytest.raises(EvidenceRefused, match="is no release that ran"):
        card(root, tmp_path / "none", "v8.0.0")


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        (card_facts.MODEL, None, r"docs/cards/model\.md: is missing: a card needs words of a person"),
        (
            card_facts.MODEL,
            placeholder_cards.PLACEHOLDERS[card_facts.MODEL],
            r"docs/cards/model\.md:1: is a placeholder of",
        ),
        (
            card_facts.DATA,
            "A row.\n" + placeholder_cards.PLACEHOLDERS[card_facts.DATA],
            r"docs/cards/data\.md:2: is a placeh",
        ),
        (card_facts.MODEL, "## Intended use\n\nYes.\n", "has no section `## Limits` with text"),
        (card_facts.MODEL, "## Intended use\n\n## Limits\n\nMany.\n", "has no section `## Intended use` with text"),
        (card_facts.DATA, PROSE, "has no section `## Where it comes from` with text"),
        (
            card_facts.MODEL,
            f"---\nlicense: mit\nmodel-index: []\n---\n{PROSE}",
            "its front matter has license, model-index",
        ),
        (card_facts.MODEL, f"---\n- a\n---\n{PROSE}", "its front matter has no mapping"),
        (card_facts.MODEL, f"---\nlanguage: &a [*a]\n---\n{PROSE}", r"docs/cards/model\.md: "),
        (card_facts.MODEL, f"---\ntags: {{}}\nlanguage: [en\n---\n{PROSE}", r"docs/cards/model\.md: "),
    ],
)
def test_prose_that_lacks_or_contradicts_is_refused(root: Path, path: Path, text: str | None, why: str) -> None:
    edit(root, path, text)
    with pytest.raises(EvidenceRefused, match=why):
        card(root, root / writing.FOLDER)
    assert not (root / writing.FOLDER).exists()


def _newer_prose(root: Path) -> None:
    edit(root, card_facts.MODEL, PROSE)


def _edited_by_hand(root: Path) -> None:
    path = root / writing.FOLDER / writing.MODEL
    path.write_text(path.read_text().replace("value: 0.75", "value: 0.95"))


def _removed(root: Path) -> None:
    (root / writing.FOLDER / writing.MODEL).unlink()


@pytest.mark.parametrize("change", [_newer_prose, _edited_by_hand, _removed])
def test_a_card_that_the_record_does_not_make_is_refused(root: Path, change: Callable[[Path], None]) -> None:
    card(root, root / writing.FOLDER)
    card(root, root / writing.FOLDER, check=True)
    change(root)
    with pytest.raises(EvidenceRefused, match=r"reports/cards/model\.md: is (older|missing)") as refused:
        card(root, root / writing.FOLDER, check=True)
    assert "lockstep card" in str(refused.value)


def test_a_record_whose_verdict_is_void_makes_no_card(root: Path) -> None:
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    files.write_json(root / layout.EVALUATION, report.model_copy(update={"summary": ("Better than all.",)}))
    with pytest.raises(EvidenceRefused, match="the verdict does not hold"):
        card(root, root / writing.FOLDER)


def test_names_of_slices_are_text(root: Path) -> None:
    facts = card_record.gather(root, None)
    candidate = facts.evaluation.models["candidate"]
    slices = {"a|b<script>alert(1)</script> @team": candidate.metrics}
    models = facts.evaluation.models | {"candidate": candidate.model_copy(update={"slices": slices})}
    made = writing.render(facts._replace(evaluation=facts.evaluation.model_copy(update={"models": models})))
    assert "| `a│b<script>alert(1)</script> @team` | 40 |" in made[writing.MODEL]


def test_the_card_says_how_answers_were_sampled(root: Path) -> None:
    facts = card_record.gather(root, None)
    how = Decoding(temperature=0.7, top_p=0.9, draws=4, seed=1)
    drawn = facts._replace(evaluation=facts.evaluation.model_copy(update={"decoding": how}))
    said = "Answers were sampled: temperature 0.7, top_p 0.9, 4 of each row. Requests must ask for these numbers."
    assert (said in writing.render(drawn)[writing.MODEL], said in writing.render(facts)[writing.MODEL]) == (True, False)


@pytest.mark.parametrize(
    ("spdx", "wanted"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("Apache-2.0 AND MIT", {"license": "other", "license_name": "apache-2.0-and-mit"}),
        ("LicenseRef-Own", {"license": "other", "license_name": "licenseref-own"}),
        (None, {}),
    ],
)
def test_licences_are_named_as_the_hub_names_them(spdx: str | None, wanted: dict[str, str]) -> None:
    assert hub_metadata.license_of(spdx) == wanted


def test_the_command_says_what_it_wrote_and_what_is_stale(root: Path) -> None:
    run = CliRunner()
    done = run.invoke(main, ["-C", str(root), "card", "--json"])
    names = [f"reports/cards/{name}" for name in ("model.md", "data.md", "REPORT.md", "croissant.json")]
    assert json.loads(done.output) == {"files": names, "checked": False}
    done = run.invoke(main, ["-C", str(root), "card", "--check"])
    assert (done.exit_code, done.output.splitlines()) == (0, [f"{name}: is current" for name in names])
    _edited_by_hand(root)
    done = run.invoke(main, ["-C", str(root), "card", "--check"])
    assert done.exit_code == EvidenceRefused.exit_code
    assert "is older than its record or its prose, or was changed by hand" in done.output
