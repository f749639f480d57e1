"""As actions/upload-artifact 7 does it: paths below their least common folder, hidden files where asked for, patterns with
`!` taken away with all below them, a name once a run; prints the step's outputs where it made an artifact."""

import os
import re
import shutil
import sys
from pathlib import Path

store = Path(os.environ["LOCKSTEP_ACT_STORE"]) / os.environ["NAME"]
lines = [re.sub(r"^(!?)\./", r"\1", line.strip()) for line in os.environ["PATHS"].splitlines() if line.strip()]
wanted = [line for line in lines if not line.startswith("!")]
parts = {"**/": "(?:.*/)?", "*": "[^/]*"}
unwanted = [
    "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*)", line[1:]))
    for line in lines
    if line.startswith("!")
]
files: list[Path] = []
for pattern in wanted:
    for found in Path().glob(pattern):
        files += [found] if found.is_file() else [path for path in found.rglob("*") if path.is_file()]
above = {path: [path.as_posix(), *(each.as_posix() for each in path.parents)] for path in files}
files = [path for path in files if not any(re.fullmatch(pattern, each) for pattern in unwanted for each in above[path])]
if os.environ["HIDDEN"] != "true":
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
if not files:
    print(f"No files were found with the provided path: {wanted}")
    sys.exit(os.environ["MISSING"] == "error")
if store.exists():
    if os.environ["OVERWRITE"] != "true":
        sys.exit(
            f"Failed to CreateArtifact: an artifact with this name already exists on the workflow run: {store.name}"
        )
    shutil.rmtree(store)
absolute = [path.absolute() for path in files]
# The action's rule: of several search paths, there or not, the least common folder; of one the folder that it names.
roots = [Path(each).absolute() for each in wanted]
root = Path(os.path.commonpath(roots)) if len(roots) > 1 else roots[0]
if root.is_file():
    root = root.parent
for path in absolute:
    to = store / path.relative_to(root)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)  # the action loses modes, too
print(f"Artifact {store.name}: {len(files)} files")
run = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}".format_map(os.environ)
with Path(os.environ["GITHUB_OUTPUT"]).open("a") as outputs:
    outputs.write(f"artifact-url={run}/artifacts/{len(list(store.parent.iterdir()))}\n")
