"""References to images: what is read as Docker reads it, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.process.errors import BuildRefused
from release.adapters.registry.reference import Reference, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python", Reference("docker.io", "library/python", None, None)),
        ("python:3.13", Reference("docker.io", "library/python", "3.13", None)),
        ("vllm/vllm-openai:v0.9", Reference("docker.io", "vllm/vllm-openai", "v0.9", None)),
        ("docker.io/python", Reference("docker.io", "library/python", None, None)),
        ("index.docker.io/a/b", Reference("docker.io", "a/b", None, None)),
        ("ghcr.io/o/n:t", Reference("ghcr.io", "o/n", "t", None)),
        (f"ghcr.io/o/n:t@{DIGEST}", Reference("ghcr.io", "o/n", "t", DIGEST)),
        (f"ghcr.io/o/n@{DIGEST}", Reference("ghcr.io", "o/n", None, DIGEST)),
        ("localhost/n", Reference("localhost", "n", None, None)),
        ("localhost:5000/n:t", Reference("localhost:5000", "n", "t", None)),
        ("registry:5000/a/b/c", Reference("registry:5000", "a/b/c", None, None)),
        ("127.0.0.1:65535/n", Reference("127.0.0.1:65535", "n", None, None)),
        ("[::1]:5000/n:t", Reference("[::1]:5000", "n", "t", None)),
        ("registry/n", Reference("docker.io", "registry/n", None, None)),
        ("HOST/n", Reference("HOST", "n", None, None)),
        ("a.b/c__d/e-f.g_h---i", Reference("a.b", "c__d/e-f.g_h---i", None, None)),
        ("xn--bcher-kva.example/n", Reference("xn--bcher-kva.example", "n", None, None)),
        ("oci:folder", Reference(None, "folder", None, None)),
        ("oci:./a/b:v1", Reference(None, "./a/b", "v1", None)),
        (f"oci:/a/b c/ü@{DIGEST}", Reference(None, "/a/b c/ü", None, DIGEST)),
        (f"oci:/a@b/c:v1@{DIGEST}", Reference(None, "/a@b/c", "v1", DIGEST)),
        ("oci:a:b/c", Reference(None, "a:b/c", None, None)),
        ("oci:../up", Reference(None, "../up", None, None)),
    ],
)
def test_a_reference_is_read_as_docker_and_skopeo_read_it(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "/", ":", "@", "a/", "/a", "a//b", "a:", "a:b:c", "Python", "a/B", "ghcr.io/A", "ghcr.io/", "a b", "ü",
        "a/../b", "../a", "./a", "a/.", "a:-t", "a:.t", "a:" + "t" * 129, "a_/b", "-a/b", "_a", "a.b/" + "c" * 252,
        "https://ghcr.io/o/n", "docker://ghcr.io/o/n", "user:word@ghcr.io/n", "ghcr.io:port/n", "ghcr.io:/n", "a_b.c/n",
        "ghcr.io:65536/n", "ghcr.io:999999/n", "-a.b/n", "a-.b/n", "a..b/n", "[::1/n", "::1/n", "[zz]:1/n", "a\n", "a\0b",
        "a@", "a@sha256:", "a@sha256:" + "0" * 63, f"a@{DIGEST}0", "a@sha256:" + "G" * 64, "a@" + DIGEST.upper(),
        f"a@{DIGEST}@{DIGEST}", "a@sha512:" + "0" * 128, f"@{DIGEST}", f"a:t@{DIGEST} ", "a@sha256-" + "0" * 64,
        "oci:", "oci::t", "oci:a:", "oci:a:b c", "oci:a\0", "oci:a\n", "oci:a@b", f"oci:@{DIGEST}",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BuildRefused) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@given(st.text(alphabet="aA0._-:/@[] oci:sha256\0\n", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_reference_that_reads_back_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except BuildRefused:
        return
    assert parse(str(found)) == found
