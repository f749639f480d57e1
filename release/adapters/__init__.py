"""The outside world: git, HTTP, GitHub, OCI registries and DVC. Nothing here knows what a release is."""
