"""How long does each job of the workflows take, and how much of that is not the work itself?

    python -m benchmarks.workflows

In:  nothing; the journey of tests/test_workflow_pull_request.py: the real workflow files under act, jobs as processes
     on this machine, with a tiny model, a bare repository, a folder as DVC's remote and a registry on this machine. So
     there is no wait for a runner, no set-up of an environment (kept between runs on GitHub) and no network.
Out: a Markdown table: seconds of each job from its first line to its last; of its stages, or of the server that is
     verified; and the rest: checkout, processes that start, transfers, git, the comment.
"""

import subprocess
import sys

TEST = "tests/test_workflow_pull_request.py::test_what_each_job_costs"


def main() -> int:
    """Print the table; the exit code of pytest."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-s", TEST]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    print("\n".join(table) if not done.returncode else done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
