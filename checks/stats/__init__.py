"""Tests, intervals and plans for scores of models: numbers in, numbers out."""
