"""What sglang.yaml says of SGLang, against the source of the release that it names: it needs CUDA, and is not run."""

import argparse
import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from release import runtimes
from tests.conftest import as_params
from tests.once import once

RUNTIME = runtimes.load("sglang")
assert RUNTIME.own_environment is not None
VERSION = RUNTIME.own_environment.make.rpartition("==")[2]
FIELDS, CHOICES = "sglang/srt/arg_groups/fields/", "sglang/srt/arg_groups/choices.py"

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The Python files of the wheel, by path."""

    def download(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, f"sglang=={VERSION}"], check=True)

    (wheel,) = once(tmp_path_factory, "sglang", download).glob("sglang-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}


def choices(source: Mapping[str, str]) -> dict[str, list[Any]]:
    """The lists of choices that have a name."""
    assignments = (node for node in ast.parse(source[CHOICES]).body if isinstance(node, ast.Assign))
    return {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in assignments
        if isinstance(node.value, ast.List)
    }


def definitions(source: Mapping[str, str]) -> Iterator[tuple[str, ast.expr, dict[str, ast.expr]]]:
    """Yield the field, the type and the metadata of each argument, as ``add_cli_args_from_dataclass`` reads them."""
    trees = (ast.parse(text) for path, text in source.items() if path.startswith(FIELDS))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.AnnAssign))
    for node in nodes:
        said = node.annotation
        if isinstance(said, ast.Subscript) and ast.unparse(said.value) == "A" and isinstance(said.slice, ast.Tuple):
            kind, meta = said.slice.elts[:2]
            words = {each.arg: each.value for each in meta.keywords if each.arg} if isinstance(meta, ast.Call) else {}
            yield ast.unparse(node.target), kind, words


def parser(source: Mapping[str, str]) -> argparse.ArgumentParser:
    """Take the arguments that SGLang's own parser takes, by their names, kinds and choices."""
    made, named = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False), choices(source)
    for field, kind, words in definitions(source):
        name = ast.literal_eval(words["cli_name"]) if "cli_name" in words else f"--{field.replace('_', '-')}"
        names = [name, *(ast.literal_eval(words["aliases"]) if "aliases" in words else ())]
        of = re.sub(r"^Optional\[(.*)\]$", r"\1", ast.unparse(kind))
        if "no_cli" in words or "action" in words:
            continue
        if of == "bool":
            made.add_argument(*names, action="store_true")
            continue
        taken = words.get("choices")
        listed = None if taken is None else named.get(ast.unparse(taken)) or _literal(taken)
        made.add_argument(*names, type={"int": int, "float": float}.get(of, str), choices=listed)
    return made


def _literal(node: ast.expr) -> list[Any] | None:
    return ast.literal_eval(node) if isinstance(node, ast.List) else None


@pytest.mark.parametrize("dtype", sorted(RUNTIME.dtypes))
@pytest.mark.parametrize("cached", [None, False])
def test_its_parser_takes_the_arguments(
    source: Mapping[str, str], dtype: str, cached: bool | None, document: dict
) -> None:
    document["serve"] |= {"dtype": dtype, "prefix_caching": cached, "shards": 2}
    serve = as_params(document).serve
    taken = parser(source).parse_args(list(runtimes.fill(RUNTIME, serve, "/models/router").command))
    assert taken.model_path == taken.served_model_name == "/models/router"
    assert (taken.context_length, taken.max_running_requests) == (
        serve.max_total_tokens,
        serve.max_concurrent_requests,
    )
    assert (taken.port, taken.tp_size, taken.dtype) == (RUNTIME.port, 2, RUNTIME.dtypes[serve.dtype])
    assert (taken.enable_metrics, taken.disable_radix_cache) == (True, cached is False)


def test_an_argument_or_a_choice_that_it_does_not_have_is_found(source: Mapping[str, str], params: Params) -> None:
    command = list(runtimes.fill(RUNTIME, params.serve, "/models/router").command)
    for wrong in ("--max-model-len=7", "--dtype=bf16", "--max-running-requests=many"):
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            parser(source).parse_args([*command, wrong])


def test_it_has_the_metrics_that_verify_alerts_and_scaling_name(source: Mapping[str, str]) -> None:
    text = source["sglang/srt/observability/metrics_collector.py"]
    assert RUNTIME.metrics is not None
    cached = RUNTIME.settings.prefix_caching
    assert cached is not None
    for name in (*RUNTIME.metrics.counters, *cached.enabled.counters, *RUNTIME.metrics.watched.names):
        assert f'"{name}"' in text, name


def test_it_has_the_paths_and_fields_that_are_asked(source: Mapping[str, str]) -> None:
    server = source["sglang/srt/entrypoints/http_server.py"]
    assert RUNTIME.identity is not None
    for path in (RUNTIME.health, RUNTIME.identity.path, "/v1/models", "/v1/chat/completions", "/tokenize"):
        assert f'"{path}"' in server, path
    assert f'"{RUNTIME.identity.field}": ' in server
    chat = source["sglang/srt/entrypoints/openai/protocol.py"]
    for field in (
        "return_token_ids: bool",
        "response_token_ids: Optional[List[int]]",
        "min_tokens: int",
        "stop_token_ids: Optional",
    ):
        assert field in chat, field


def test_it_reads_the_variables_that_are_set(source: Mapping[str, str]) -> None:
    text = source["sglang/srt/environ.py"]
    assert [name for name in RUNTIME.environment if name.startswith("SGLANG_") and f"    {name} = " not in text] == []


def test_the_image_is_of_that_release() -> None:
    assert RUNTIME.image.endswith(f":v{VERSION}")
