"""What every page of HTML is made of: one frame, one style, one search, and how values are written."""
