"""What a block without collections leaves out: a model that is not used any more is collected all the same."""

import subprocess
import sys

from tests.conftest import REPOSITORY

# In a new process: the tests' own have loaded libraries that take seconds to go over.
SCRIPT = """
import gc, importlib, sys, weakref
from checks.process import imports

class Model:
    def __init__(self):
        self.trainer = self  # as trainers and their callbacks do

imports.collect()
with imports.uncollected():
    model = Model()
    sys.modules["this"] = importlib.import_module("types")  # as a library that is loaded in the block
made = weakref.ref(model)
del model
gc.collect()
assert made() is not None
imports.collect()
assert made() is None

model = Model()
made = weakref.ref(model)
del model
def unfreeze():
    raise AssertionError("all libraries are gone over")
gc.unfreeze = unfreeze
imports.collect()  # no block since
assert made() is None
"""


def test_what_a_block_made_is_collected_once_it_is_not_used_and_libraries_are_gone_over_once() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=REPOSITORY, check=True)
