"""One repository of a registry, over HTTP by the OCI distribution specification 1.1.

Why not a library: oras 0.2.43 holds a whole blob in memory to upload it, shares one token between threads without a
lock, and neither waits as 429 and Retry-After ask, mounts blobs across repositories nor hashes while it sends; olot
1.2.1 writes layout folders only, reading each file twice. So this is a small client of our own over `requests`;
credentials are read by the Docker SDK.
"""
