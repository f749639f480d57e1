"""The parts of every page of HTML: one frame, one style, one search, and how values are written."""
