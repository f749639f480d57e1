"""The pipeline: one module per DVC stage, each runnable with ``python -m stages.NAME``."""
