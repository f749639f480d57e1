"""Promotion: the checks that must pass before an environment moves, and the commit that moves it."""
