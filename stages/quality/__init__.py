"""What validate expects of the splits, and how it counts their tokens."""
