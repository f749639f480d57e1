"""Encoders and cross-encoders on tiny models: the vectors and scores that transformers gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.inference.encoders import embed, relevance
from tests.conftest import _WORDS

pytestmark = pytest.mark.slow

WORDS = _WORDS.split()


def cross_encoder(folder: Path, labels: int = 1, seen: str | None = None) -> Path:
    """A BERT of one layer that reads question and passage: random, or 1 for a pair with the word ``seen``, else 0."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*special, "name", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_input_names=inputs
    ).save_pretrained(folder)
    torch.manual_seed(4)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=len(special) + 1 + len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=24, num_labels=labels, initializer_range=0.5,
    ))  # fmt: skip
    if seen is not None:  # all tokens are seen alike, and one of them alone has a vector
        weights = model.state_dict()
        for name, value in weights.items():
            value.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
            if any(
                part in name for part in ("self.value.weight", "attention.output.dense.weight", "pooler.dense.weight")
            ):
                value.copy_(torch.eye(8))
        weights["bert.embeddings.word_embeddings.weight"][tokenizer.token_to_id(seen), 0] = 9.0
        weights["classifier.weight"][0, 0] = 1.0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("most", [None, 6])
def test_a_cross_encoder_scores_a_question_with_a_passage(most: int | None, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = cross_encoder(tmp_path / "cross")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = [("list key", "vault key name queue show"), ("vault key name queue show", "list key"), ("disk", "disk")]
    cut = {"truncation": True, "max_length": most} if most else {}
    with torch.no_grad():
        expected = [float(model(**tokenizer(*pair, return_tensors="pt", **cut)).logits) for pair in pairs]
    assert relevance(folder, pairs, most, "x") == pytest.approx(expected, abs=1e-5)
    assert len({round(each, 3) for each in expected}) == len(pairs)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_text_has_the_vector_of_its_own_tokens(pooling: Any, encoder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    texts = ["queue", "vault key list", "a" * 60]
    found = embed(encoder, texts, pooling, 30, "x")
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:30]])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0].numpy()
        expected = states.mean(0) if pooling == "mean" else states[0]
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
