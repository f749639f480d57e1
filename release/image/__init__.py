"""Images as data: references, descriptors, layers, and the two places that hold them (a folder, a registry)."""
