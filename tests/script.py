"""Runs the program in its first argument, as ``python -c`` does, and as a module that tests/warm.py can fork."""

import sys

if __name__ == "__main__":
    program = sys.argv.pop(1)
    exec(compile(program, "<script>", "exec"), {"__name__": "__main__"})
