"""The files that stages, gates and the release tool exchange: typed, strict, each with a schema version."""
