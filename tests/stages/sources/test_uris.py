"""What a source's URI may say, and that its secrets are never shown."""

from pathlib import Path

import pytest

from checks.process.errors import SourceRefused
from stages.sources import parsing, uris
from stages.sources.schemes.file import Local
from stages.sources.schemes.hf import Hub
from stages.sources.schemes.pypi import Wheel
from stages.sources.schemes.url import Remote

ROOT = Path("/repository")


@pytest.mark.parametrize(
    ("uri", "meaning"),
    [
        ("pypi://azure-cli==2.91.0/azure/cli", Wheel("azure-cli", "2.91.0", "azure/cli")),
        ("pypi://a==1.0+cpu/a b/ü.gguf", Wheel("a", "1.0+cpu", "a b/ü.gguf")),
        ("hf://org/model@main", Hub("org/model", "model", "main", None)),
        ("hf://gpt2@v1/sub/f.gguf", Hub("gpt2", "model", "v1", "sub/f.gguf")),
        ("hf://datasets/org/name@refs%2Fpr%2F1/d", Hub("org/name", "dataset", "refs/pr/1", "d")),
        ("s3://bucket/key", Remote("s3://bucket/key")),
        ("HTTPS://host/f", Remote("HTTPS://host/f")),
        ("file:///a%20b/c", Local(Path("/a b/c"))),
        ("rows/my data.jsonl", Local(ROOT / "rows/my data.jsonl")),
        ("/elsewhere/rows", Local(Path("/elsewhere/rows"))),
    ],
)
def test_each_form_is_read(uri: str, meaning: object) -> None:
    assert parsing.parse(uri, "data.uri", ROOT) == meaning


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("pypi://azure-cli==2.91.0", "package==version/path/inside"),
        ("pypi://azure-cli/azure", "package==version/path/inside"),
        ("pypi://azure-cli>=2/azure", "package==version/path/inside"),
        ("pypi://--index-url==1/a", "package==version/path/inside"),
        ("pypi://a==1 --index-url x/a", "package==version/path/inside"),
        ("pypi://a==1/../b", "package==version/path/inside"),
        ("pypi://a==1//b", "package==version/path/inside"),
        ("pypi://a==1/b/", "package==version/path/inside"),
        ("hf://org/model", "hf://org/model@revision"),
        ("hf://org/model@", "hf://org/model@revision"),
        ("hf://a/b/c@v1", "hf://org/model@revision"),
        ("hf://org/model@v1/../x", "hf://org/model@revision"),
        ("file://host/a", "another host"),
        ("simplecache::https://host/a", "chains file systems"),
        ("a\nb", "control character"),
        ("a\x00b", "control character"),
        ("a\ud800b", "control character"),
    ],
)
def test_a_malformed_uri_is_refused_on_one_line(uri: str, problem: str) -> None:
    with pytest.raises(SourceRefused, match=problem) as refusal:
        parsing.parse(uri, "data.uri", ROOT)
    assert str(refusal.value).startswith("params.yaml: data.uri: ")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:pass@host:8/a/b?X-Amz-Signature=abc&versionId=7#part", "https://host:8/a/b?X-Amz-Signature=***&versionId=7"),
        ("https://host/a?opaque", "https://host/a?***"),
        ("https://host/a?token=x=y&", "https://host/a?token=***&"),
        ("s3://key:secret@bucket/a#1", "s3://bucket/a#1"),
        ("https://[broken/a?sig=1", "https://[broken/a?sig=***"),
        ("zip://x::https://me:pass@host/a", "zip://x::https://host/a"),
        ("pypi://a==1/b", "pypi://a==1/b"),
        ("/a/b?c", "/a/b?c"),
    ],
)  # fmt: skip
def test_secrets_are_not_shown(uri: str, shown: str) -> None:
    assert uris.redact(uri) == shown


def test_secrets_in_a_librarys_message_are_not_shown() -> None:
    uri = "https://me:p%40ssword@host/a?sig=s%2Bcret&ref=v1"
    error = ValueError(f"cannot\nread {uri} as me:p@ssword with s+cret, s%2Bcret at v1")
    shown = uris.reason(error, uri)
    assert shown == "ValueError: cannot read https://host/a?sig=***&ref=v1 as me:*** with ***, *** at v1"


def test_the_cause_behind_not_found_is_told() -> None:
    error = FileNotFoundError("https://host/a")
    error.__cause__ = TimeoutError("no answer")
    assert uris.reason(error, "https://host/a") == "TimeoutError: no answer"
