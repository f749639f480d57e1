"""The list of files that a signature of weights has, as model-signing reads it."""

from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused
from checks.storage import digest
from release.evidence import keys, trust, weights
from release.verbs import keys as key_verbs
from tests.release.verbs.test_signing import _cli

pytestmark = pytest.mark.slow

OTHER = "sha256:" + "0" * 64


def test_names_in_folders_are_ordered_as_model_signing_orders_them(tmp_path: Path) -> None:
    merged = {"a/b.txt": b"1", "a.txt": b"2", "a-b/c": b"3", "ü": b"4", "Z": b"5", "a/b/c": b"6", "a/b-c/d": b"7"}
    del merged["a/b.txt"]
    for name, data in merged.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(data)
    made = key_verbs.new(tmp_path, "ada", ("release",))
    payload = weights.payload({name: digest.of_bytes(data) for name, data in merged.items()}, "m")
    done = _cli(tmp_path, trust.Signatory(keys.load(made.private), ()).bundle(payload), made.public, tmp_path / "m")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_verifiers_leave_out_is_not_signed() -> None:
    for name in (".git/config", ".gitattributes", ".github/x", ".gitignore"):
        with pytest.raises(EvidenceRefused, match="not covered"):
            weights.payload({name: OTHER, "model.safetensors": OTHER}, "m")
