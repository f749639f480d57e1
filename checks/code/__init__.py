"""The code of the stages: which modules each stage runs, and the digest of them that a record names."""
