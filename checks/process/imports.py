"""Loads large libraries and millions of rows sooner: without collecting garbage meanwhile.

Loading PEFT, TRL, MLflow or Great Expectations makes half a million objects, nearly all of which stay. Python's
collector goes over them again and again, which takes a quarter of the time, and at every later collection. Lists of a
million values are gone over as often.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_left_out = False  # whether a block left out what it made, since the last ``collect``


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage in this block, and leave what it loaded out of later collections.

    For imports, for what imports at its first call, and for work on rows, before a model is there: memory of objects
    that refer to each other in a circle would not be given back.
    """
    if not gc.isenabled():
        yield
        return
    global _left_out
    loaded = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
            _left_out = True
        gc.enable()


def collect() -> None:
    """Collect all garbage, also what a block left out: a model that was made in it and is not used any more.

    Going over all libraries takes a second, so this is done only after such a block.
    """
    global _left_out
    if _left_out:
        gc.unfreeze()
    gc.collect()
    if _left_out:
        gc.freeze()
        _left_out = False
