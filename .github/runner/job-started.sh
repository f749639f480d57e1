#!/bin/sh
# For ACTIONS_RUNNER_HOOK_JOB_STARTED of the GPU runner: whose pull request comes onto this machine. docs/how-to/runners.md.
#
# A pull request brings its own workflow file, so no `if:` in one holds a fork back. This runs before the job's first
# step, from the machine's image. Its environment is the machine's and the runner's GITHUB_*; a workflow sets none of it.
# What it does not know, it refuses.

trap '' INT TERM # who cancels the run does not get past it

if said=$(/usr/bin/env python3 -I - 2>/dev/null <<'PYTHON'
import json
import os
import re
import sys

HOME = ("push", "schedule", "workflow_dispatch")  # events that the repository's own branches alone can start


def refusal():
    name, repository = os.environ["GITHUB_EVENT_NAME"], os.environ["GITHUB_REPOSITORY"]
    with open(os.environ["GITHUB_EVENT_PATH"], encoding="utf-8") as file:
        event = json.load(file)
    if name in HOME and "pull_request" not in event:
        return None
    if name != "pull_request":
        return f"no job of the event {re.sub('[^a-z_]', '?', name)[:40]} comes onto this machine"
    pull = event["pull_request"]
    head = pull["head"]
    if not re.fullmatch("[0-9a-f]{40}", head["sha"]):
        return "the event names no commit of the pull request"
    home = head["repo"] is not None and repository and head["repo"]["full_name"] == repository
    if home and pull["user"]["type"] != "Bot":  # what a bot proposes, such as a new package, nobody has read
        return None
    label = f"run {head['sha']}"
    if label in [each["name"] for each in pull["labels"]]:
        return None
    return f"a commit of a fork or a bot needs the label `{label}` for this machine, and the pull request has none such"


said = refusal()
print(said or "")
sys.exit(said is not None)
PYTHON
); then
    exit 0
fi
echo "::error::refused: ${said:-the event that started this job cannot be read}"

# A failed hook fails the job, and yet its steps with `if: always()` would run: end the process that would run them.
if [ "$(cat "/proc/$PPID/comm")" = Runner.Worker ]; then
    sleep 2 # until the line above is on the run's page
    kill -KILL "$PPID"
fi
exit 1
