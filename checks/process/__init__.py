"""The parts that every process needs: refusals, text that is safe to print, threads, and garbage collection."""
