"""Evidence of releases: what is signed, by whom, and how it is attached to the image."""
