#!/bin/sh
# Brings the files of Lockstep in a team's repository to the version that was fetched last. docs/how-to/data.md says how
# to call it. Each file is merged by itself. A file that the team removed stays removed. .lockstep-commit names the new
# version only after every file was merged, so the same commands can be run again.
set -eu

refuse() {
  echo "lockstep: $1; $2" >&2
  exit 1
}

update() {
  mark=.lockstep-commit
  [ -f "$mark" ] || refuse "$mark: is not here" "run this at the top of the repository, or write into it the commit of Lockstep that its files are of"
  old=$(git rev-parse --verify --quiet "$(cat "$mark")^{commit}") || refuse "$mark: names no commit that was fetched" "fetch from the repository of Lockstep that the files came from"
  new=$(git rev-parse --verify --quiet "FETCH_HEAD^{commit}") || refuse "nothing was fetched" "git fetch the branch main of Lockstep's repository"
  git diff --quiet HEAD -- || refuse "there are uncommitted changes" "commit them first"
  conflicts=0
  failures=0
  git -c core.quotePath=off diff --name-only --no-renames "$old" "$new" -- . ':!params.yaml' ':!code.lock' ':!dvc.lock' ':!reports' \
    ':!release/policy' ':!README.md' ':!docs/cards' >"$(git rev-parse --git-path lockstep-update)"
  while IFS= read -r path; do
    file=":(top,literal)$path"
    if git cat-file -e "$old:$path" 2>/dev/null && [ -z "$(git ls-files -- "$file")" ]; then
      ! git cat-file -e "$new:$path" 2>/dev/null || echo "left out, because it was removed here: $path"
    elif git diff --binary --full-index --no-renames "$old" "$new" -- "$file" | git apply --3way >/dev/null 2>&1; then
      :
    elif [ -n "$(git ls-files --unmerged -- "$file")" ]; then
      echo "has conflict markers: $path"
      conflicts=1
    else
      echo "was not merged: $path" >&2
      failures=1
    fi
  done <"$(git rev-parse --git-path lockstep-update)"
  [ "$failures" = 0 ] || refuse "$mark stays, because some files were not merged" "move what is in their way, git reset --hard, then run this again"
  echo "$new" >"$mark"
  git add "$mark"
  [ "$conflicts" = 0 ] || echo "resolve the conflicts, then commit"
}

update </dev/null
