"""The gateway before a model's server: it passes requests on, counts them, and stores a redacted sample of them."""
