"""What a model is asked beside the test rows, and how its answers are scored and judged."""
