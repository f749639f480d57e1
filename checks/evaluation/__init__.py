"""Suites beside the test rows, and how their answers are scored and judged."""
