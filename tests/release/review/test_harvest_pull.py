"""The pin that `lockstep harvest` writes into params.yaml is read alike by Lockstep and by DVC, wherever the rows lie."""

import pytest
from dvc.utils.serialize import parse_yaml

from checks.config import params_file
from release.review import harvest_pull
from tests import report_tree
from tests.conftest import written
from tests.release.review.test_harvest_close import HARVEST

ADDRESSES = (
    "s3://acme/captures/harvest/production-1.jsonl",
    "file:///srv/captures/harvest/production-1.jsonl",
    "captures/a, b} #c.jsonl",
)


@pytest.mark.parametrize("uri", ADDRESSES)
def test_a_pin_and_a_later_pin_are_read_by_dvc(uri: str) -> None:
    first = harvest_pull.with_pin(written(report_tree.document()), HARVEST.model_copy(update={"uri": uri}))
    later = harvest_pull.with_pin(first, HARVEST.model_copy(update={"uri": f"{uri}l", "sha256": "7" * 64}))
    for text, expected in ((first, (uri, "5" * 64)), (later, (f"{uri}l", "7" * 64))):
        source = parse_yaml(text, "params.yaml")["data"]["sources"]["harvest-production"]
        assert (source["uri"], source["sha256"]) == expected
        ours = (params_file.parse(text).data.sources or {})["harvest-production"]
        assert (ours.uri, ours.sha256) == expected
