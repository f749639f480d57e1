"""Compares local sources with their pins, without fetching. DVC tracks the pin in params.yaml but not the file.

In:  ``base`` with the file of its chat template, ``data`` with its ``sources``, the files of ``suites``, the encoder of
 ``validate`` and ``merge.draft`` in params.yaml, if they are local. A missing source is left to its stage: the outputs
 may come from the DVC remote.
Out: nothing; a refusal if a source is not as pinned.
Run: ``python -m stages.still_pinned``; `lockstep run` does so before it starts DVC. Refusals name fetch.
"""

from pathlib import Path

from checks.code import lock
from checks.config.params import Params, Source
from stages import entry, sources
from stages.sources import parsing
from stages.weights import chat_template


def still_pinned(params: Params, root: Path) -> str:
    """Compare local sources with their pins. Raises SourceRefused as fetch does, and ParamsRefused as ``code``."""
    lock.refuse_left_out(params)
    chat_template.text_of(params.base, root)
    pinned: dict[str, Source] = {"base": params.base, **params.data.pinned}
    for name, suite in params.suites.items():
        pinned |= {f"suites.{name}.{key}": source for key, source in suite.sources.items()}
    if (meant := params.validate_.semantic_duplicates) is not None:
        pinned["validate.semantic_duplicates.model"] = meant.model
    if params.merge.draft is not None:
        pinned["merge.draft"] = params.merge.draft
    states = []
    for section, source in pinned.items():
        local = parsing.parse(source.uri, f"{section}.uri", root).local
        if local is None:
            continue
        path = sources.place(local)
        is_here = sources.lies_there(path, section)
        if is_here:
            sources.hold(source, section, sources.measure(path, section).sha256)
        states.append(f"{section} {'as pinned' if is_here else 'not here'}")
    return f"local sources: {', '.join(states) or 'none'}"


if __name__ == "__main__":
    entry.run("fetch", still_pinned)
