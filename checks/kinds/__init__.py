"""The interfaces of all kinds, one a file, with the registry of the kinds that there are."""
