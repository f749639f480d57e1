"""What a person reads after an evaluation: a page and plots."""
