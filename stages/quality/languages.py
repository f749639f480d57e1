"""Finds texts in other languages than ``validate.languages.expected``, by the detector py3langid.

py3langid is Naive Bayes over sequences of bytes (Lui and Baldwin, langid.py: An Off-the-shelf Language Identification
Tool, ACL 2012). Its probabilities say how sure it is, so a text that is too short for it is not judged instead of being
called foreign: docs/measurements/data.md has its errors by length. Such texts are counted, bounded and listed for
people to look at. None is dropped.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from checks.config import pipeline_params
from checks.formats.data_statistics import Detector, Judged, Languages, OtherLanguage
from checks.process import distribution
from checks.process.errors import ParamsRefused
from checks.storage import digest, files, layout
from stages import progress
from stages.quality.documents import Texts
from stages.quality.expectations import Columns, Expected, Suite, great_expectations
from stages.quality.rows_frames import Read

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

    Loaded = tuple[LanguageIdentifier, Detector]

FILE = layout.DATA_DOCS / "other_languages.jsonl"
SHOWN = 20  # rows of a list
_PACKAGE = "py3langid"
_SECTION = "validate.languages"
_COLUMN = "other_language"
_NONE = "zxx"  # py3langid calls numbers, markup and identifiers so.
_READ = 2000  # characters of a text that are judged: more take longer and change nothing
_CHARACTERS = 200  # A text's characters that are listed, at most.
_DIGITS = 3  # Digits of a probability as it is written. Processors differ in the sixth.
_Text = tuple[str, str, str]  # where, id, text


class Found(NamedTuple):
    """The findings: the frame of the judged texts of each kind, the statistics, and every text in another language.

    In frames and in ``others`` texts in other languages come first, the most probable of them before the less probable.
    """

    frames: dict[str, Columns]
    statistics: Languages
    others: list[OtherLanguage]


def judge(
    config: pipeline_params.Languages | None,
    loaded: "Loaded | None",
    read: Mapping[str, Read],
    documents: Texts,
) -> Found | None:
    """Return the languages of the texts that ``config`` names, by what ``load`` gave for it; None if it is None."""
    if config is None or loaded is None:
        return None
    identifier, detector = loaded
    frames: dict[str, Columns] = {}
    texts: dict[str, Judged] = {}
    others: list[OtherLanguage] = []
    for kind in dict.fromkeys(config.texts):
        columns, counts, guessed = _judged(identifier, config, kind, _texts(kind, read, documents))
        frames[_frame(kind)], texts[kind] = columns, counts
        others += guessed
    return Found(frames, Languages(detector=detector, texts=texts), sorted(others, key=_rank))


def load(config: pipeline_params.Languages | None) -> "Loaded | None":
    """Return the detector, and what reports say of it; None without ``config``.

    Raises MachineRefused if it is not installed, ParamsRefused for a language that it does not know.
    """
    if config is None:
        return None
    with distribution.needed(f"{_SECTION} needs {_PACKAGE}, which is not installed", "languages"):
        from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier
    model = digest.of_file(MODEL_DIR / MODEL_FILE)
    detector = Detector(name=_PACKAGE, version=metadata.version(_PACKAGE), sha256=model.sha256)
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = sorted({*identifier.labels} - {_NONE})
    if unknown := sorted({*config.expected} - {*known}):
        raise ParamsRefused(
            f"{layout.PARAMS}: {_SECTION}.expected: {_PACKAGE} {detector.version} does not know {', '.join(unknown)}",
            f"use codes of these: {', '.join(known)}",
        )
    return identifier, detector


def _texts(kind: str, read: Mapping[str, Read], documents: Texts) -> Iterator[_Text]:
    if kind == "document":
        yield from zip(documents.places, documents.ids, documents.texts, strict=True)
        return
    for of_split in read.values():
        yield from zip(
            of_split.columns["where"],
            of_split.columns["id"],
            of_split.requests if kind == "request" else of_split.references,
            strict=True,
        )


def _judged(
    identifier: "LanguageIdentifier",
    config: pipeline_params.Languages,
    kind: str,
    texts: Iterable[_Text],
) -> tuple[Columns, Judged, list[OtherLanguage]]:
    others: list[OtherLanguage] = []
    sound: list[tuple[str, str]] = []
    languages: Counter[str] = Counter()
    unjudged = 0
    for place, row_id, text in progress.of_rows(f"languages of {kind}s", texts):
        language, probability = _language(identifier, config, text.strip())
        if language is None:
            unjudged += 1
            continue
        languages[language] += 1
        if language in config.expected:
            sound.append((place, row_id))
        else:
            others.append(
                OtherLanguage(
                    where=place,
                    id=row_id,
                    text=kind,
                    language=language,
                    probability=probability,
                    shown=text.strip()[:_CHARACTERS],
                )
            )
    others.sort(key=_rank)
    columns: Columns = {
        "where": [*(other.where for other in others), *(place for place, _ in sound)],
        "id": [*(other.id for other in others), *(row_id for _, row_id in sound)],
        _COLUMN: [
            *(f"{other.language} {other.probability:.3f} {other.shown!r}" for other in others),
            *(None for _ in sound),
        ],
    }
    ordered = sorted(languages, key=lambda language: (-languages[language], language))
    counts = Judged(
        judged=len(others) + len(sound),
        not_judged=unjudged,
        languages={language: languages[language] for language in ordered},
        others=len(others),
        rows=tuple(others[:SHOWN]),
    )
    return columns, counts, others


def _language(
    identifier: "LanguageIdentifier", config: pipeline_params.Languages, text: str
) -> tuple[str | None, float]:
    """Return the language and its probability; None if it is not judged.

    The probabilities of all expected languages count together, so that relatives such as no and da do not compete.
    """
    if len(text) < config.min_characters:
        return None, 0.0
    ranked = identifier.rank(text[:_READ])
    expected = [
        (language, probability) for language, probability in ranked if language in config.expected
    ]
    together = round(sum(probability for _, probability in expected), _DIGITS)
    if together >= config.min_probability:
        return expected[0][0], together
    language, likeliest = next(guess for guess in ranked if guess[0] not in config.expected)
    probability = round(likeliest, _DIGITS)
    return (
        None if language == _NONE or probability < config.min_probability else language
    ), probability


def _rank(other: OtherLanguage) -> tuple[float, str, str]:
    return -other.probability, other.where, other.text


def _frame(kind: str) -> str:
    return f"{kind}s by language"


def suites(config: pipeline_params.Languages | None, judged: Found | None) -> dict[str, Suite]:
    """Return the suite of each frame of ``judged``."""
    if config is None or judged is None:
        return {}
    gxe = great_expectations().expectations
    by = judged.statistics.detector
    words = (
        f"at most {config.max_share:.1%} of those judged are in another language than {', '.join(config.expected)}, "
        f"by {by.name} {by.version} {by.sha256}"
    )
    todo = (
        f"look at {FILE}; drop such rows in the data source, add their language to {_SECTION}.expected, or raise "
        f"{_SECTION}.max_share"
    )
    of = partial(
        gxe.ExpectColumnValuesToBeNull, column=_COLUMN, mostly=round(1 - config.max_share, 9)
    )
    return {
        _frame(kind): {
            "some are judged": Expected(
                gxe.ExpectTableRowCountToBeBetween(min_value=1),
                f"lower {_SECTION}.min_characters or min_probability, or take {kind} out of {_SECTION}.texts: nothing "
                "is known of them",
            ),
            words: Expected(of(), todo),
        }
        for kind in judged.statistics.texts
    }


def write(judged: Found | None, root: Path) -> None:
    """Write ``FILE``, with every text in another language."""
    if judged is not None:
        files.write_jsonl(root / FILE, judged.others)
