"""Environments of tools that suites run, each of its own."""
