"""OCI images as data: base image, layers, config and manifest, and the stores that hold them."""
