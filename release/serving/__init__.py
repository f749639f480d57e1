"""Runs a server of a model and checks its answers against the offline model (`lockstep verify`)."""
