"""Weights on disk: formats, the base model's directory, LoRA, and the agreement of two models."""
