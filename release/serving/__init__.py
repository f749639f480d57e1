"""Servers that are started, asked and ended: containers, processes, and those that run already."""
