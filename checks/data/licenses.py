"""A small table of licences, and how sources spell their names.

A table is no lawyer. What each licence says of shipping a fine-tuned model is cut down to three columns; where a
text can be read in two ways the stricter one is here. Three simplifications matter most: model licences whose
terms must travel with every derivative (use restrictions, a name, a copy of the agreement) are read as "derivatives
under the same licence"; thresholds that few reach (monthly users, revenue) are duties, not refusals; and a licence
that is not in the table is not known, which refuses. A name is added by a row here.
"""

import re
from typing import NamedTuple


class License(NamedTuple):
    """One row. ``name`` is the SPDX identifier, or for a licence without one the name that model hubs use.

    ``commercial``: commercial use is permitted. ``derivatives``: the licences that a derivative may be shared under;
    None is any, an empty one none at all. ``duties``: what sharing asks for.
    """

    name: str
    commercial: bool
    derivatives: tuple[str, ...] | None
    duties: str


_TEXT = "keep the copyright notice and the licence's text"
_CREDIT = "credit the author, link the licence, say what was changed"
_RULES = "pass on the use restrictions and a copy of the licence"
_LLAMA = "copy of the agreement, its notice and use policy; agreement of Meta above 700 million monthly users"

OWN = "LicenseRef-Own"  # no licence at all: whoever ships the model holds the rights to this
TABLE = tuple(
    License(*row)
    for row in (
        ("Apache-2.0", True, None, "keep the licence's text, notices and NOTICE, say what was changed"),
        ("MIT", True, None, _TEXT),
        ("BSD-2-Clause", True, None, _TEXT),
        ("BSD-3-Clause", True, None, f"{_TEXT}; no endorsement by the authors' names"),
        ("ISC", True, None, _TEXT),
        ("0BSD", True, None, "none"),
        ("Unlicense", True, None, "none"),
        ("CC0-1.0", True, None, "none"),
        ("PDDL-1.0", True, None, "none"),
        ("ODC-By-1.0", True, None, "name the database and its licence"),
        ("ODbL-1.0", True, ("ODbL-1.0",), "name the database and its licence, offer what was derived from it"),
        ("CDLA-Permissive-1.0", True, None, "none on results; with the data, its credits and the agreement"),
        ("CDLA-Permissive-2.0", True, None, "none on results; with the data, the agreement"),
        ("CDLA-Sharing-1.0", True, None, "none on results; the data itself only under the same agreement"),
        ("CC-BY-3.0", True, None, _CREDIT),
        ("CC-BY-4.0", True, None, _CREDIT),
        ("CC-BY-SA-3.0", True, ("CC-BY-SA-3.0", "CC-BY-SA-4.0"), _CREDIT),
        ("CC-BY-SA-4.0", True, ("CC-BY-SA-4.0",), _CREDIT),
        ("CC-BY-NC-4.0", False, None, _CREDIT),
        ("CC-BY-NC-SA-4.0", False, ("CC-BY-NC-SA-4.0",), _CREDIT),
        ("CC-BY-ND-4.0", True, (), f"{_CREDIT}; nothing adapted may be shared"),
        ("CC-BY-NC-ND-4.0", False, (), f"{_CREDIT}; nothing adapted may be shared"),
        ("openrail", True, ("openrail",), _RULES),
        ("openrail++", True, ("openrail++",), _RULES),
        ("creativeml-openrail-m", True, ("creativeml-openrail-m",), _RULES),
        ("bigscience-openrail-m", True, ("bigscience-openrail-m",), _RULES),
        ("bigscience-bloom-rail-1.0", True, ("bigscience-bloom-rail-1.0",), _RULES),
        ("bigcode-openrail-m", True, ("bigcode-openrail-m",), _RULES),
        ("llama2", True, ("llama2",), f"{_LLAMA}; no training of other language models"),
        ("llama3", True, ("llama3",), f'{_LLAMA}; "Built with Meta Llama 3", a name that begins with Llama 3'),
        ("llama3.1", True, ("llama3.1",), f'{_LLAMA}; "Built with Llama", a name that begins with Llama'),
        (
            "llama3.2", True, ("llama3.2",),
            f'{_LLAMA}; "Built with Llama", a name that begins with Llama; vision models not in the EU',
        ),
        ("llama3.3", True, ("llama3.3",), f'{_LLAMA}; "Built with Llama", a name that begins with Llama'),
        ("llama4", True, ("llama4",), f'{_LLAMA}; "Built with Llama", a name that begins with Llama; not in the EU'),
        ("gemma", True, ("gemma",), f"{_RULES}, a notice, say what was changed; Gemma 1 to 3, later ones differ"),
        ("qwen", True, ("qwen",), "copy of the agreement, say what was changed; above 100 million monthly users ask"),
        ("qwen-research", False, ("qwen-research",), 'copy of the agreement, "Built with Qwen", say what was changed'),
        ("mrl", False, ("mrl",), "Mistral AI Research License: copy of the agreement, say what was changed"),
        ("mnpl", False, ("mnpl",), "Mistral AI Non-Production License: copy of the agreement, say what was changed"),
        (OWN, True, None, "none"),
    )
)  # fmt: skip

_KNOWN = {row.name.casefold(): row for row in TABLE}
_BSD = ("BSD-2-Clause", "BSD-3-Clause")
_ALIASES = {  # what ``_plain`` leaves of other spellings, and the rows that they can mean
    "apache": ("Apache-2.0",),  # In practice version 2.0 is meant.
    "apache software": ("Apache-2.0",),
    "apache software 2.0": ("Apache-2.0",),
    "asl 2.0": ("Apache-2.0",),
    "mit mit": ("MIT",),
    "expat": ("MIT",),
    "bsd": _BSD,
    "3 clause bsd": ("BSD-3-Clause",),
    "new bsd": ("BSD-3-Clause",),
    "modified bsd": ("BSD-3-Clause",),
    "2 clause bsd": ("BSD-2-Clause",),
    "simplified bsd": ("BSD-2-Clause",),
    "isc iscl": ("ISC",),
    "cc0": ("CC0-1.0",),
    "cc0 1.0 universal": ("CC0-1.0",),
    "cc0 1.0 universal cc0 1.0 public domain dedication": ("CC0-1.0",),
    "creative commons zero 1.0 universal": ("CC0-1.0",),
    "creative commons attribution 4.0 international": ("CC-BY-4.0",),
    "creative commons attribution sharealike 4.0 international": ("CC-BY-SA-4.0",),
    "creative commons attribution noncommercial 4.0 international": ("CC-BY-NC-4.0",),
    "pddl": ("PDDL-1.0",),
    "odc by": ("ODC-By-1.0",),
    "odbl": ("ODbL-1.0",),
    "tongyi qianwen": ("qwen",),
    "tongyi qianwen research": ("qwen-research",),
}  # fmt: skip
# Words that stand where a licence belongs and name none.
_NO_NAME = {
    "",
    "other",
    "unknown",
    "osi approved",
    "file",
    "see",
    "see file",
    ".txt",
    ".md",
    "see .txt",
    "see .md",
}


def find(name: str) -> License | None:
    """The row of this name, whatever its case; None when the table has none."""
    return _KNOWN.get(name.strip().casefold())


def says_nothing(declared: str) -> bool:
    """Whether a source's own words name no licence: "other", "UNKNOWN", "see LICENSE.txt"."""
    return _plain(declared) in _NO_NAME


def read(declared: str) -> frozenset[str]:
    """The names in the table that a source's own words can mean; none when the table knows no such words.

    Reads identifiers, common names, the classifiers of package indexes, and a choice between them ("MIT OR
    Apache-2.0"). What joins licences otherwise ("AND", "WITH", a list) needs a person.
    """
    names: set[str] = set()
    for part in re.split(r"\s+or\s+", declared.strip().strip("()"), flags=re.IGNORECASE):
        plain = _plain(part)
        names |= {_PLAIN_NAMES[plain]} if plain in _PLAIN_NAMES else set(_ALIASES.get(plain, ()))
    return frozenset(names)


def _plain(words: str) -> str:
    """``words`` without what changes no meaning: a classifier's path, case, punctuation, "the", "license, version"."""
    name = re.sub(r"^license ::(?:[^,]*::)?", "", words.casefold().strip())
    bare = re.sub(r"[^a-z0-9.+]+", " ", name)
    bare = re.sub(r"\bv(?=\d)", "", bare)
    return " ".join(
        re.sub(r"\b(the|licen[cs]e|agreement|community|version|terms of use)\b", " ", bare).split()
    )


_PLAIN_NAMES = {_plain(row.name): row.name for row in TABLE}
