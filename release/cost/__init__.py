"""What a training will cost by the recorded ones, and what it did cost."""
