"""Parts of a case: a check is skipped with the reason of the first part that was not found."""

import pytest

from checks.process.errors import EvidenceRefused, RegistryRefused, RemoteRefused
from release.promotion import checklist
from release.promotion.checklist import CheckResult, Unavailable
from release.promotion.environment import CasePart


def test_a_part_that_was_not_found_names_the_first_part_that_is_missing() -> None:
    image = CasePart[str]("the image was not found")
    statement = CasePart[str]("no statement holds", image)
    statement.value = "a statement"
    with pytest.raises(Unavailable, match="the image was not found"):
        statement.get()
    image.value = "an image"
    assert statement.get() == "a statement"
    statement.value = None
    with pytest.raises(Unavailable, match="no statement holds"):
        statement.get()


def test_a_check_keeps_what_it_found_before_a_refusal_and_every_other_line_of_it() -> None:
    def check(result: CheckResult) -> None:
        result.fail("the first", "mend it")
        raise RegistryRefused("the second", "ask again", ("the third",))

    done = checklist.run("image", check)
    assert [failure.line for failure in done.failures] == ["the first; mend it", "the second; ask again", "the third"]
    assert [failure.unanswered for failure in done.failures] == [False, True, True]
    assert not done.skipped


def test_a_check_without_its_part_is_skipped_and_a_remote_that_fails_ends_the_move() -> None:
    part = CasePart[str]("the record does not hold")
    done = checklist.run("policy", lambda _: part.get())
    assert (done.failures, done.skipped, done.note) == ((), True, "the record does not hold")

    def ends(result: CheckResult) -> None:
        raise RemoteRefused("it does not answer", "ask again")

    with pytest.raises(RemoteRefused):
        checklist.run("previous", ends)
    assert checklist.refusal("staging is not moved", (done, checklist.run("record", _refuse))) is not None


def _refuse(result: CheckResult) -> None:
    raise EvidenceRefused("it is another", "sign it")
