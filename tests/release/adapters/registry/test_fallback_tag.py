"""The tag that names what is attached to an image, in a registry without the referrers API."""

import json
import threading
from collections.abc import Iterator

import pytest

from checks.process.errors import Refusal, RegistryRefused
from checks.storage.digest import canonical_json
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import MANIFEST, Descriptor
from release.evidence import attach
from tests.registry_service import Registry, registry

pytestmark = pytest.mark.slow

OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def _subject(place: Repository) -> Descriptor:
    from release.image.layout import Bytes

    config = place.add(Bytes(b"{}"), None, lambda _: None)
    body = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}
    body["config"] = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}
    data = canonical_json(body)
    return Descriptor(media_type=MANIFEST, digest=place.put(data, MANIFEST, None), size=len(data))


def test_those_who_attach_at_once_are_all_found(service: Registry) -> None:
    place = Repository(service.host, "team/race", push=True)
    to = _subject(place)
    wanted: list[str] = []
    problems: list[Refusal] = []

    def job(number: int) -> None:
        try:
            own = Repository(service.host, "team/race", push=True)
            wanted.append(attach.attach(own, to, "application/x.test", str(number).encode(), "x"))
        except Refusal as error:
            problems.append(error)

    threads = [threading.Thread(target=job, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for number in range(6):  # who lost the race after having won it is fixed by the next time
        attach.attach(place, to, "application/x.test", str(number).encode(), "x")
    assert {one.digest for one in place.referrers(to.digest)} == set(wanted)


def test_what_others_put_under_the_tag_is_kept_and_lies_are_passed_over(service: Registry) -> None:
    place = Repository(service.host, "team/kept", push=True)
    to, another = _subject(place), _subject(Repository(service.host, "team/kept2", push=True))
    one = attach.attach(place, to, "application/x.test", b"one", "x")
    stranger = attach.attach(place, another.model_copy(update={"digest": OTHER}), "application/x.test", b"two", "x")
    lie = next(d for d in place.referrers(OTHER) if d.digest == stranger)
    tag = to.digest.replace(":", "-")
    index = json.loads(place.document(tag).data)
    index["manifests"].append(lie.plain())
    place.put(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json", tag)
    told: list[str] = []
    found = list(attach.attached(place, to.digest, "application/x.test", 100, told.append))
    assert [(artifact.digest, artifact.data) for artifact in found] == [(one, b"one")]
    assert any("is not attached to" in line for line in told)
    attach.attach(place, to, "application/x.test", b"three", "x")
    assert {d.digest for d in place.referrers(to.digest)} >= {one, stranger}


def test_a_tag_that_names_no_index_is_no_list_of_referrers(service: Registry) -> None:
    place = Repository(service.host, "team/notag", push=True)
    to = _subject(place)
    place.put(place.document(to.digest).data, MANIFEST, to.digest.replace(":", "-"))
    with pytest.raises(RegistryRefused, match="belongs to"):
        place.referrers(to.digest)
