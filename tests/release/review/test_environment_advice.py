"""What a reader of `lockstep status` should do: a table of situations."""

from typing import cast

import pytest

from release.review.environment_advice import TABLE, Situation, Wait, advise, of_the_quarantine, of_the_tags

HERE = Situation("production", version="v0.1.0", after="staging")
SOAK = {"soak": "soaks in staging until 2026-03-14 15:09 UTC"}


def following(**waits: str) -> Situation:
    return HERE._replace(next="v0.2.0", source="staging", waits=cast(dict[Wait, str], waits))


SITUATIONS: dict[str, tuple[Situation, str, str, str]] = {
    "quarantined": (
        following()._replace(quarantined="answers in French", drift=("a", "b")),
        "🚫 v0.1.0 is in quarantine", "answers in French", "`lockstep rollback production --why …`",
    ),
    "drift": (
        following()._replace(drift=("production: pointer: is a link", "restore it"), doubt="a"),
        "🚫 git contradicts itself", "production: pointer: is a link", "restore it",
    ),
    "emergency": (
        following()._replace(exemption="EMERGENCY until 2026-12-04 02:00 UTC", doubt="a"),
        "🚫 v0.1.0 runs on an exception", "EMERGENCY until 2026-12-04 02:00 UTC", "`lockstep promote production` it before",
    ),
    "doubt": (
        following()._replace(doubt="commit 1 is of the future"),
        "⚠️ the time of the last move", "commit 1 is of the future", "`lockstep history production`",
    ),
    "nothing": (HERE._replace(version=None), "⚠️ nothing runs here", "", "`lockstep promote staging` first"),
    "runs": (HERE, "✅ runs v0.1.0", "", "nothing"),
    "held": (
        following(quarantine="in quarantine: {bad}", approvals="takes 1 approval"),
        "⚠️ v0.2.0 of staging must not follow", "in quarantine: {bad}; takes 1 approval", "make a better release",
    ),
    "unfit": (
        following(verification="is not verified as it would serve: it ran as a process"),
        "⚠️ v0.2.0 of staging must not follow as it was verified", "ran as a process", "`lockstep verify`",
    ),
    "room": (
        following(render="base: of an earlier version of Lockstep", room="capacity: is 1"),
        "⚠️ v0.2.0 of staging can follow once environment.yaml of production lets an update end", "capacity: is 1",
        "write that, `lockstep render production`, commit both",
    ),
    "render": (
        following(build="`lockstep build`", render="base: of an earlier version of Lockstep"),
        "⚠️ v0.2.0 of staging can follow once production is rendered", "base: of an earlier", "`lockstep render production`, commit",
    ),
    "build": (
        following(build="`lockstep build`"),
        "✅ v0.2.0 of staging can follow once it is an image", "", "`lockstep build`, then `lockstep promote production`",
    ),
    "people": (
        following(**SOAK, approvals="takes 2 approvals"),
        "⚠️ v0.2.0 of staging can follow once people sign", "UTC; takes 2 approvals",
        "`lockstep approve production --why …`; then `lockstep promote production`",
    ),
    "soak": (following(**SOAK), "✅ v0.2.0 of staging can follow later", "UTC", "wait, then"),
    "next": (following(), "✅ v0.2.0 of staging can follow", "", "`lockstep promote production`"),
}  # fmt: skip


def test_every_situation_of_the_table_is_here() -> None:
    assert set(SITUATIONS) == set(TABLE)


@pytest.mark.parametrize("name", SITUATIONS)
def test_it_says_what_to_do_about_an_environment(name: str) -> None:
    situation, title, why, todo = SITUATIONS[name]
    advised = advise(situation)
    assert f"{advised.mark} {advised.headline}".startswith(title)
    assert why in advised.why
    assert todo in advised.todo
    assert "None" not in f"{advised}"


def test_a_first_environment_that_runs_nothing_needs_a_model() -> None:
    assert advise(Situation("staging")).todo == "`lockstep run` makes a model"


def test_a_second_signature_is_given_by_sign() -> None:
    advised = advise(following(signatures="takes 2 signatures"))
    assert advised.todo.startswith("let them sign: `lockstep sign`; then")


def test_quarantine_and_tags_have_advice_only_where_they_contradict() -> None:
    assert of_the_quarantine([]) == of_the_tags([]) == []
    (held,) = of_the_quarantine([("v0.1.0 is missing", "restore it")])
    assert (held.mark, held.why, held.todo) == ("🚫", "v0.1.0 is missing", "restore it")
    (tags,) = of_the_tags(["tag a: is missing", "tag b: is missing"])
    assert (tags.mark, tags.why) == ("⚠️", "tag a: is missing; tag b: is missing")
    assert "`lockstep reconcile --fix`" in tags.todo
