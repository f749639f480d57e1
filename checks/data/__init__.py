"""Rows before training: drafts, near-duplicates, personal data, licences."""
