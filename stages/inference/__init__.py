"""Answers: prompts, batched greedy generation, cheap baselines."""
