"""What a block without collections leaves out: a model that is not used any more is collected all the same."""

import gc
import importlib
import sys
import weakref

import pytest

from checks import imports


class _Model:
    """Refers to itself, as trainers and their callbacks do."""

    def __init__(self) -> None:
        self.trainer = self


def test_what_a_block_made_is_collected_once_it_is_not_used_and_libraries_are_gone_over_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports.collect()
    sys.modules.pop("this", None)
    with imports.uncollected():
        model = _Model()
        sys.modules["this"] = importlib.import_module("types")  # as a library that is loaded in the block
    made = weakref.ref(model)
    del model
    gc.collect()
    assert made() is not None
    imports.collect()
    assert made() is None
    model = _Model()
    made = weakref.ref(model)
    del model
    monkeypatch.setattr(gc, "unfreeze", lambda: pytest.fail("all libraries are gone over"))
    imports.collect()  # no block since
    assert made() is None
    del sys.modules["this"]
