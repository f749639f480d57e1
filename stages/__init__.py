"""The pipeline: one module for each DVC stage, each runnable with ``python -m stages.NAME``."""
