"""Packing: a row learns as if it were alone, steps and sequences are counted, and what cannot be is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.kinds.method import Train
from checks.process.errors import ParamsRefused, TrainingRefused
from checks.storage import digest, files, layout
from stages.train import train
from stages.training import checkpoints
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS

pytestmark = pytest.mark.slow

slow = pytest.mark.slow


def _document(**change: Any) -> dict:
    document = scaled_down()
    document["train"] |= {"packing": "bfd", "batch_size": 2, "max_steps": None, "epochs": 2} | change
    return document


def _settings(**change: Any) -> Train:
    return as_params(_document(**change)).train


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits of 24, 6 and 6 rows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return training_tree.make(tmp_path / "root", tiny_base)


def _trainer(root: Path, **change: Any) -> Any:
    """A trainer whose adapter is not that of the start, which changes nothing."""
    import torch

    trainer = training_tree.trainer(_settings(**change), root, root / "scratch")
    torch.manual_seed(3)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    trainer.model.eval()
    return trainer


def _rows(batch: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Where each row of a batch begins and ends."""
    starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
    return zip(starts, [*starts[1:], batch["position_ids"].shape[1]], strict=True)


@slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_logits_of_a_packed_row_are_those_of_the_row_alone(root: Path, attention: str) -> None:
    import torch

    trainer = _trainer(root)
    trainer.model.set_attn_implementation(attention)
    alone = {tuple(row["input_ids"]) for row in _trainer(root, packing=False).train_dataset}
    seen = 0
    for batch in trainer.get_train_dataloader():
        ids = batch["input_ids"]
        given = {name: each for name, each in batch.items() if name != "labels"}
        with torch.no_grad():
            packed = trainer.model(**given, use_cache=False).logits
            blind = trainer.model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        for number, (start, end) in enumerate(_rows(batch)):
            assert tuple(ids[0, start:end].tolist()) in alone
            with torch.no_grad():
                own = trainer.model(ids[:, start:end]).logits
            torch.testing.assert_close(packed[:, start:end], own, rtol=0, atol=1e-5)
            assert number == 0 or not torch.allclose(blind[:, start:end], own, rtol=0, atol=1e-3)
            seen += 1
    assert seen == 24


@slow
def test_the_loss_of_a_packed_batch_is_that_of_its_rows_and_of_trl(root: Path) -> None:
    import torch
    from trl import SFTTrainer

    trainer, other = _trainer(root), _trainer(root, packing=False)
    batch = next(iter(trainer.get_train_dataloader()))
    ids = [tuple(batch["input_ids"][0, start:end].tolist()) for start, end in _rows(batch)]
    rows = [row for row in other.train_dataset if tuple(row["input_ids"]) in ids]
    rows = [next(row for row in rows if tuple(row["input_ids"]) == each) for each in ids]  # some are alike
    assert len(rows) > 2
    found = [
        trainer.compute_loss(trainer.model, dict(batch)),
        SFTTrainer.compute_loss(trainer, trainer.model, dict(batch)),
        other.compute_loss(other.model, other.data_collator(rows)),
    ]
    for each in found[1:]:
        assert each.item() == pytest.approx(found[0].item(), rel=1e-5)
    gradients = [
        torch.autograd.grad(loss, [w for w in of.model.parameters() if w.requires_grad])
        for loss, of in zip(found, (trainer, trainer, other), strict=True)
    ]
    for first, *others in zip(*gradients, strict=True):
        for gradient in others:
            torch.testing.assert_close(gradient, first, rtol=1e-4, atol=1e-6)


@slow
def test_a_training_counts_sequences_and_ends_in_the_same_bytes_twice_and_if_it_was_interrupted(
    root: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training.trainer import Steady

    document = _document(epochs=3, early_stopping={"patience": 99, "per_epoch": 2})
    document["train"]["lora"]["dropout"] = 0.1
    other = training_tree.make(tmp_path / "other", tiny_base)
    train(as_params(document), other)

    monkeypatch.setenv(checkpoints.MINUTES, "0.000001")
    step, asked = Steady.training_step, list[None]()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        asked.append(None)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Steady, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(as_params(document), root)
    train(as_params(document), root)
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).resumed_at == 6
    assert digest.of_tree(root / layout.ADAPTER) == digest.of_tree(other / layout.ADAPTER)
    assert (root / layout.LOSS_CURVE).read_text() == (other / layout.LOSS_CURVE).read_text()

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    settings, sequences = _settings(epochs=3), len(_trainer(root).train_dataset)
    lengths = [len(row["input_ids"]) for row in _trainer(root, packing=False).train_dataset]
    assert sum(lengths) / settings.max_length <= sequences < 24
    assert (report.rows, report.sequences, report.tokens) == (24, sequences, 3 * sum(lengths))
    each = -(-sequences // 2)
    assert report.steps == settings.steps(sequences) == 3 * each
    assert report.stopping
    every = each // 2
    assert [at for at, _ in report.stopping.losses] == [*range(every, report.steps + 1, every)]
    assert len((root / layout.LOSS_CURVE).read_text().splitlines()) == 1 + report.steps


@slow
@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_learn_what_one_process_learns_from_twice_the_batch(root: Path) -> None:
    counts, losses = [], []
    for ranks, batch in ((1, 4), (2, 2)):
        train(as_params(_document(devices=ranks, batch_size=batch, max_steps=2, epochs=None)), root)
        report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
        assert report.batch == (None if ranks == 1 else 4)
        counts.append((report.sequences, report.steps))
        curve = (root / layout.LOSS_CURVE).read_text().splitlines()[1:]
        losses.append([float(line.split(",")[1]) for line in curve])
    assert counts[0] == counts[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def _convolutions(base: Path) -> None:
    """A model with short convolutions, which on a CPU go on from one row to the next."""
    from transformers import AutoTokenizer, Lfm2Config, Lfm2ForCausalLM

    for path in base.glob("model*"):
        path.unlink()
    words = len(AutoTokenizer.from_pretrained(base))
    config = Lfm2Config(
        vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    Lfm2ForCausalLM(config).save_pretrained(base)


@slow
def test_a_model_whose_rows_would_see_one_another_is_refused_before_its_first_step(root: Path) -> None:
    _convolutions(root / layout.BASE)
    document = _document()
    document["train"]["lora"]["targets"] = "all-linear"
    with pytest.raises(
        TrainingRefused,
        match=r"train\.packing: .* \(lfm2, attention sdpa\) cannot keep .* apart: .*; set train\.packing",
    ):
        train(as_params(document), root)
    assert not (root / layout.ADAPTER).exists()


@slow
def test_an_attention_that_makes_no_mask_of_positions_is_refused(root: Path) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from stages.training import packing

    trainer = _trainer(root)
    AttentionInterface.register("without_masks", sdpa_attention_forward)
    packing.refuse_seen(trainer, trainer.data_collator)
    trainer.model.set_attn_implementation("without_masks")
    with pytest.raises(
        TrainingRefused,
        match=r"attention without_masks\) cannot keep rows of one sequence apart: the second one sees the first;",
    ):
        packing.refuse_seen(trainer, trainer.data_collator)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"packing": True}, r"train\.packing: True"),
        ({"packing": "wrapped"}, r"train\.packing: wrapped cuts rows where .*; use bfd$"),
        ({"packing": "bfd_split"}, r"train\.packing: bfd_split cuts rows above max_length, which are refused.*; use bfd$"),
        ({"neftune_alpha": 5.0}, r"packing: neftune_alpha makes its noise smaller .*; use false, or neftune_alpha: null$"),
        ({"devices": 2, "shard": "fsdp2"}, r"packing: shard fsdp2 is not offered with it, it was never tried; use false$"),
        *(
            (METHODS[name] | {"batch_size": 4}, rf"packing: train\.method '{name}' does not offer it: that takes a loss of each row by itself; ")
            for name in METHODS
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_packed_is_refused_as_params_yaml_is_read(change: dict, says: str) -> None:
    document = _document(**change)
    document["validate"]["preferences"] = {"max_length_bias": 0.15, "max_auc": 0.75}
    with pytest.raises(ParamsRefused, match=says):
        as_params(document)
