"""Reports of an evaluation for people: a page and plots."""
