"""One verb of the command line in one file: it loads, asks a domain package, and returns a result."""
