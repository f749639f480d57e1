"""Supervised fine-tuning with TRL and PEFT, and its record in MLflow."""
