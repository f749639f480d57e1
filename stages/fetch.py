"""fetch: downloads the pinned base model and raw data, and refuses any other bytes.

In: ``base`` and ``data`` with its ``sources`` of params.yaml, each a ``uri`` (``stages/sources/schemes`` has a file for
each form) and a ``sha256`` (``stages.sources`` says what it pins); ``base.chat_template``, which the base then has in
place of its own, asked to think as ``base.thinking`` says.
Out: ``models/base/`` (safetensors, configuration, tokenizer, chat template), ``data/raw/``, ``reports/fetch.json``.
 With ``data.sources``, data/raw has a folder for each source: ``main`` for that of data.uri, and one of each name.
Run: ``python -m stages.fetch``

The outputs of an earlier run are deleted first. The new ones appear at the end, the report last: after a refusal there
are none, and no output is ever incomplete.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from checks.config.params import Params, Source
from checks.formats.data_reports import MAIN_SOURCE, FetchReport
from checks.formats.report import Fetched
from checks.kinds.chat_template import TEMPLATES
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import digest, files, layout
from stages import entry, sources
from stages.sources import Verified, copies, declared, parsing, uris
from stages.tracking import others
from stages.weights import base_model, chat_template, gguf


def fetch(params: Params, root: Path) -> str:
    """Fetch all sources and write the report. Raises SourceRefused or MachineRefused."""
    try:
        with sources.alone(root):
            return _fetch(params, root)
    except OSError as error:
        raise MachineRefused(
            f"{error.filename or layout.DOWNLOADS}: {error.strerror or error}",
            "free the disk or grant access",
        ) from error


def _fetch(params: Params, root: Path) -> str:
    pinned: dict[str, Source] = {"base": params.base, **params.data.pinned}
    folders = {
        "data": MAIN_SOURCE,
        **{f"data.sources.{name}": name for name in params.data.sources or {}},
    }
    for section, source in pinned.items():
        _refuse_overlap(source, section, root)
    others.hold_installed(params.tracking)  # training would refuse, after the downloads
    template = chat_template.text_of(params.base, root)
    (root / layout.FETCH_REPORT).unlink(missing_ok=True)
    base, raw = root / layout.BASE, root / layout.RAW
    with files.replacing_folder(base) as made, files.replacing_folder(raw) as data:
        verified = {
            section: sources.bring(source, section, root) for section, source in pinned.items()
        }
        trees = {"base": copies.fill(made, verified["base"], "base", _base)}
        if template is None:
            chat_template.refuse_none(made, verified["base"].inside or verified["base"].name)
        else:
            chat_template.give(made, params.base, template)
        if params.base.thinking:
            chat_template.give_thinking(made, params.base.thinking)
        if template is not None or params.base.thinking:
            trees["base"] = digest.of_tree(made)
        for section, name in folders.items():
            place = data / name if len(folders) > 1 else data
            place.mkdir(exist_ok=True)
            trees[section] = copies.fill(place, verified[section], section, _data)
        if len(folders) > 1:
            trees["data"] = digest.of_tree(data)
    fetched = {
        section: Fetched(
            uri=uris.redact(pinned[section].uri),
            sha256=verified[section].sha256,
            size=verified[section].size,
            files=len(tree.files),
            digest=tree.digest,
            license=pinned[section].license,
            declared=declared.license_of(verified[section]),
            chat_template=chat_template.digest_in(base) if section == "base" else None,
        )
        for section, tree in trees.items()
    }
    used = [
        parsing.parse(source.uri, f"{section}.uri", root).kind for section, source in pinned.items()
    ]
    plugins = parsing.kinds().plugins(used)
    if isinstance(params.base.chat_template, str):
        plugins |= TEMPLATES.plugins([params.base.chat_template])
    further = {name: fetched[section] for section, name in folders.items() if section != "data"}
    files.write_json(
        root / layout.FETCH_REPORT,
        (FetchReport(base=fetched["base"], data=fetched["data"], sources=further, plugins=plugins)),
    )
    summaries = (f"{section} {_summary(tree)}" for section, tree in trees.items())
    return "; ".join((*summaries, *_declarations(fetched)))


def _summary(tree: digest.Tree) -> str:
    """One line. The digest is of the whole output, not of what is pinned, so it is labelled as such."""
    count = f"{len(tree.files):,} file{'s' if len(tree.files) > 1 else ''}"
    return f"{count}, {tree.size / 1e6:,.1f} MB, tree {tree.digest}"


def _declarations(fetched: dict[str, Fetched]) -> Iterator[str]:
    """Licences that sources declare differently from params.yaml. The gate judges them; this warns before training."""
    for section, source in fetched.items():
        if (
            source.declared is not None
            and source.declared.casefold() != (source.license or "").casefold()
        ):
            stated = source.license or "nothing"
            yield f"{section} declares the licence {source.declared!r}, {layout.PARAMS} states {stated}"


def _base(source: Verified, material: Path, target: Path) -> None:
    """Create models/base from a .gguf file or a model's folder."""
    name = source.inside or source.name
    if material.is_dir():
        ggufs = sorted(material.rglob("*.gguf"))
        if base_model.has_weights(material) or not ggufs:
            return base_model.copy(material, target, name)
        if len(ggufs) > 1:
            raise SourceRefused(
                f"{layout.PARAMS}: base.uri: {name} holds {len(ggufs)} .gguf files",
                f"name one of them in the URI, such as {ggufs[0].relative_to(material).as_posix()}",
            )
        material = ggufs[0]
    if not gguf.is_gguf(material):
        raise SourceRefused(
            f"{layout.PARAMS}: base.uri: {name} is a file, but not GGUF",
            "name a .gguf file or a model's folder",
        )
    return gguf.convert(material, target, name)


def _data(source: Verified, material: Path, target: Path) -> None:
    """Create data/raw from a file or a folder, unchanged."""
    if material.is_file():
        shutil.copyfile(material, target / source.name)
        return
    names = source.files if source.inside is None else digest.of_tree(material).files
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(material / name, target / name)


def _refuse_overlap(source: Source, section: str, root: Path) -> None:
    """Refuse a local source that is inside, or contains, what this stage replaces."""
    local = parsing.parse(source.uri, f"{section}.uri", root).local
    if local is None:
        return
    path = sources.place(local)
    for out in (layout.BASE, layout.RAW, layout.DOWNLOADS, layout.FETCH_REPORT):
        place = (root / out).resolve()
        if path.is_relative_to(place) or place.is_relative_to(path):
            raise SourceRefused(
                f"{layout.PARAMS}: {section}.uri: {source.uri!r} overlaps {out}, which fetch replaces",
                "move the source out of the way",
            )


if __name__ == "__main__":
    entry.run("fetch", fetch)
