"""Evidence of releases: what is signed, by whom, and where it hangs beside its image."""
