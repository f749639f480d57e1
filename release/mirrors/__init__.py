"""Mirrors of git: MLflow's model registry and tags, and what git expects of registries and clusters.

Mirrors decide nothing and are never read back into git. A promotion updates them once (``update.update_mirrors``).
`lockstep reconcile` finds missed updates and manual changes; with --fix it updates the mirrors from git.
"""
