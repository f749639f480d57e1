"""Work on arrays by several threads: results in the order of the items, and never many ahead."""

from collections.abc import Iterator

import pytest

from checks.process import threads


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_results_have_the_order_of_the_items_and_are_few_ahead(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: cores)
    given = 0

    def items() -> Iterator[int]:
        nonlocal given
        while given < 40:
            given += 1
            yield given

    for number, result in enumerate(threads.mapped(lambda item: -item, items()), 1):
        assert result == -number
        assert given - number <= 4
    assert number == 40


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_is_that_of_its_item(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: cores)
    results = threads.mapped(lambda item: 6 // item, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
