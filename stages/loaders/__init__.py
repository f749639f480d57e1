"""Raw data to drafts of rows: one file for each kind of loader. What a loader is: ``checks.drafts``."""
