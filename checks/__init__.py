"""Pure checks: values in, findings out. Nothing here knows DVC, Docker, MLflow or torch."""
