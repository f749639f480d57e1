"""What a process of Lockstep needs: its refusals, text that is safe to print, threads, and garbage collection."""
