"""Raw data to drafts of rows: one module per kind of source."""
