"""The release tool: one module per verb; ``release.cli`` alone prints or exits."""
