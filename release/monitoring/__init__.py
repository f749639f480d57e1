"""Watches a model that is running."""
