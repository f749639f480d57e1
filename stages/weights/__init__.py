"""Weights on disk: formats, the base model's directory, LoRA, and agreement of two models."""
