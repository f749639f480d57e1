"""Pure checks: they compute findings from values, and import no DVC, Docker, MLflow or torch."""
