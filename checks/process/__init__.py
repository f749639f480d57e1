"""The parts that every process needs: refusals, safe text, threads, garbage collection, and what is installed."""
