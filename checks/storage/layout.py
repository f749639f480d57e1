"""Every path that stages and the release tool share, relative to the repository's root."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")
CODE_LOCK = Path("code.lock")  # the digest of each stage's code, in git
KINDS = Path("kinds")  # a team's own kinds: kinds/GROUP/NAME.py

# Outputs that DVC caches; git sees only their digests, in dvc.lock.
BASE = Path("models/base")
RAW = Path("data/raw")
SPLITS = Path("data/splits")  # train.jsonl, valid.jsonl, test.jsonl
SEAL = Path("data/validated.json")  # the splits that passed every expectation, by digest
# The rows that the model learned from which training started (train.start); empty if it started anew.
LEARNED_BEFORE = Path("data/learned.jsonl")
# The merged model's offline answers, token by token. A server is compared with them.
PROBES = Path("data/probes.json")
ADAPTER = Path("models/adapter")
MERGED = Path("models/merged")
DRAFT = "draft"  # in MERGED: the smaller model of merge.draft
# In MERGED: the adapter that ships beside the base's own weights (merge.form: adapter).
SHIPPED_ADAPTER = "adapter"
GGUF = "gguf/model.gguf"  # In MERGED: the file of merge.export.
THINKING = "thinking.json"  # In BASE and MERGED: base.thinking, if there is one.
# The 16-bit model that MERGED was quantised from; else an empty folder.
UNQUANTISED = Path("models/unquantised")
PREDICTIONS = Path("data/predictions")  # candidate.jsonl, base.jsonl, one per baseline
SUITES = Path("data/suites")  # scores of each suite, as neutral lines
JUDGEMENTS = Path("data/judgements")  # The judgements of answers, a file for each judged suite.
COMPARISON = Path("data/comparison")  # plots of the paired differences, PNG and SVG
DATA_DOCS = Path("data/data_docs")

# The record: small, reviewed in pull requests, kept in git.
REPORTS = Path("reports")
FETCH_REPORT = REPORTS / "fetch.json"
PREPARE_REPORT = REPORTS / "prepare.json"
DATA_REPORT = REPORTS / "data.json"
TRAIN_REPORT = REPORTS / "train.json"
# The times and names of one run, which no digest covers.
TRAIN_MEASURED = REPORTS / "measured" / "train.json"
LOSS_CURVE = REPORTS / "loss.csv"
PARITY_REPORT = REPORTS / "parity.json"
METRICS = REPORTS / "metrics.json"  # on the valid split: what `dvc metrics` and `dvc exp show` read
CONFUSION = REPORTS / "confusion.csv"
EVALUATION = REPORTS / "evaluation.json"  # on the test split: the evidence
EVALUATE_MEASURED = REPORTS / "measured" / "evaluate.json"
SUMMARY = REPORTS / "evaluation.md"
PLOTS = REPORTS / "plots"  # PNG and SVG; DVC caches it
SUITES_REPORT = REPORTS / "suites.json"  # The digests of the scores in SUITES.
SUITES_MEASURED = REPORTS / "measured" / "suites.json"
REFERENCES = REPORTS / "references.json"  # The earlier models that git names.
LOOKS = REPORTS / "looks.json"  # The models that each test split has judged.
NOISE = REPORTS / "noise.json"  # `lockstep calibrate`
VERDICT = REPORTS / "verdict.json"
SWEEP_REPORT = REPORTS / "sweep.json"  # `lockstep sweep`: no evidence
SWEEP_TABLE = REPORTS / "sweep.md"
IMAGE_REPORT = REPORTS / "image.json"  # `lockstep build`
SERVING_REPORT = REPORTS / "serving.json"  # `lockstep verify`
# The command that writes the serving report signs this statement of what it saw.
SERVING_STATEMENT = REPORTS / "serving.intoto.json"
# `lockstep shadow` and `lockstep canary` write ENV-shadow.json and ENV-canary.json here.
ROLLOUT = REPORTS / "rollout"
MONITORING = REPORTS / "monitoring"  # `lockstep monitor rules`: a folder for each environment
WATCH = REPORTS / "watch"  # `lockstep watch`: ENV.json and ENV.svg
# `lockstep harvest`: ENV.json, its signature, and what was erased.
HARVESTS = Path("labels/harvest")
QUEUED = Path("labels/watch")  # requests that `lockstep watch --pr` queues: ENV-DATE.jsonl

# The only folders that DVC may write (stages.tools.guarded_dvc): cached outputs, and in datasets what was imported.
DVC_FOLDERS = (Path("data"), Path("datasets"), Path("models"), PLOTS)

# Desired state and policy: changed by `lockstep promote` and by code owners.
ENVIRONMENTS = Path("release/environments")
POINTER = "pointer.yaml"  # Each environment's folder has it. It says what the environment runs.
EVIDENCE = "evidence.json"  # The signed statement that the pointer names lies beside it.
APPROVED = "approvals"  # a folder beside it: <image>/<signer>.json, signed
EMERGENCY = "emergency"  # a folder below <image> there: <signer>.json, signed exceptions
# The signed answers of the sealed split: <split>/<model>.json.
SEALED_LOOKS = ENVIRONMENTS / "sealed"
QUARANTINE = ENVIRONMENTS / "quarantine.yaml"  # No promotion may move these anywhere.
APPROVALS = Path("release/policy/approved.yaml")  # policy digests that code owners approved
RUNTIMES = Path("release/runtimes")  # a team's own servers: NAME.yaml
SEALED = Path("release/policy/sealed.bin")  # the rows of the sealed split, encrypted
SIGNERS = Path("release/policy/signers.yaml")  # who may sign releases, verifications and approvals

# Private to one machine: ignored by git and by DVC.
# An experiment of a sweep trains in a copy of the repository, and keeps its checkpoints in the one that it is of.
STATE = Path(os.environ.get("LOCKSTEP_STATE", ".lockstep"))
# Holds a lock for each stage that runs in this folder, whatever LOCKSTEP_STATE is.
RUNNING = Path(".lockstep/running")
DOWNLOADS = STATE / "downloads"
ANSWERS = STATE / "answers"  # generated texts by the digest of all that decides them
# The test rows that a reference was trained on, by the digests of both splits.
LEARNED = STATE / "learned"
BATCHES = STATE / "batches"  # the same for single batches, while a model answers
JUDGED = STATE / "judged"  # replies of judges by the digest of all that was asked
SHADOW = STATE / "shadow"  # pairs of answers of `lockstep shadow`, by environment
IMAGE = STATE / "image"  # the OCI layout that `lockstep build` writes unless it pushes
LAYERS = STATE / "layers.json"  # digests of layers by the digest of the file in them
CAPTURES = STATE / "captures"  # requests that a gateway on this machine captured, by environment
LOCAL_MONITOR = STATE / "monitor"  # `lockstep monitor up`: what its programs read and write
REFUSAL = STATE / "refusal.json"  # the last refusal: checks/formats/refused.py

SPLIT_NAMES = ("train", "valid", "test")


def suite_answers(name: str) -> Path:
    """Return what models answered to the samples of a suite."""
    return SUITES / f"{name}.answers.jsonl"
