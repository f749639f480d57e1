"""Reduces the merged directory's generation_config.json to settings that do not change which token is chosen.

The evaluation takes the most likely token at each position. A base's file may set penalties on repetition, suppressed
or forced tokens, temperatures or lengths, which transformers serve and vLLM apply to requests that do not set them; TGI
reads only the ids of end tokens. So only settings that do not affect the choice are kept.
"""

from pathlib import Path

from checks.process.errors import MergeRefused
from stages.weights import model_files

GENERATION, _CONFIG = "generation_config.json", "config.json"
_IDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
# What transformers writes beside; none of it reaches the choice of a token.
_KEPT = (
    *_IDS,
    "_from_model_config",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "use_cache",
)


def neutralise(folder: Path) -> tuple[str, ...]:
    """Remove from generation_config.json of the model directory ``folder`` everything that can change an answer.

    Returns the removed keys. If there is no such file, one is written with the ids of config.json, because servers
    would otherwise read the other keys there too. Raises MergeRefused if a file cannot be read.
    """
    path = folder / GENERATION
    before = model_files.read(path if path.exists() else folder / _CONFIG, MergeRefused)
    kept = _KEPT if path.exists() else _IDS
    after = {key: value for key, value in before.items() if key in kept}
    if not path.exists() or after != before:
        model_files.write(path, after)
    return tuple(sorted(before.keys() - after.keys())) if kept is _KEPT else ()
