"""The evidence of gates: the chain of digests, the scores of each model, and the interface of a gate."""
