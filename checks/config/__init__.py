"""params.yaml as strict, frozen models, and what makes or changes it."""
