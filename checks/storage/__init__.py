"""Files of a repository: where they lie, how they are read and written, and their digests."""
