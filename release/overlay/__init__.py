"""Kustomize overlays of environments: the files that a promotion writes, and checks of the files that people add."""
