"""The verbs of the command line, one file each. A verb loads the record, calls a domain package, returns a result."""
