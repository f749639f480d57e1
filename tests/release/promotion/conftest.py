"""The repository of three adapters on one server, made once for all modules that a worker runs here."""

from tests import adapters_tree

place, promoted, top = adapters_tree.place, adapters_tree.promoted, adapters_tree.top
reached, begin = adapters_tree.reached, adapters_tree.begin
