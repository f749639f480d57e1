"""The expectations of validate, and how tokens are counted."""
