"""The record of a commit or of the work tree: parameters, dvc.lock, reports, verdict, and the earlier models."""
