"""Sampled tokens have the probabilities that a server with these numbers gives them, and no other row changes one."""

from pathlib import Path

import pytest
import torch

from checks.formats.decoding import Decoding
from checks.storage import digest
from stages.inference import generate, sampling
from stages.inference.kept_batches import KeptBatches
from tests.stages.inference.test_generate import draw, make

pytestmark = pytest.mark.slow


def decoding(temperature: float = 1.0, top_p: float = 1.0, draws: int = 1) -> Decoding:
    return Decoding(temperature=temperature, top_p=top_p, draws=draws, seed=7)


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> dict[int, float]:
    """Return the probability of each token that transformers would sample; without ties there is one such set."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(temperature)(torch.tensor([[0]]), logits[None].double())
    chances = TopPLogitsWarper(top_p)(torch.tensor([[0]]), scores).softmax(dim=-1)[0]
    return {token: chance for token, chance in enumerate(chances.tolist()) if chance}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (0.7, 0.5), (2.0, 0.05)])
def test_tokens_come_as_often_as_transformers_would_draw_them(temperature: float, top_p: float) -> None:
    from scipy.stats import chisquare

    logits, count = torch.randn(24, generator=torch.Generator().manual_seed(3)) * 2, 20_000
    streams = [f"row {number}" for number in range(count)]
    chosen = sampling.choose(logits.expand(count, -1), decoding(temperature, top_p), streams, 3).tolist()
    wanted = nucleus(logits, temperature, top_p)
    assert set(chosen) <= set(wanted)
    if len(wanted) > 1:
        often = [token for token, chance in wanted.items() if chance * count > 5]
        rare = sum(chance for token, chance in wanted.items() if token not in often) * count
        seen = [chosen.count(token) for token in often]
        expected = [wanted[token] * count for token in often]
        if rare:
            seen.append(count - sum(seen))
            expected.append(rare)
        assert chisquare(seen, expected, sum_check=False).pvalue > 1e-4


def test_a_large_vocabulary_gives_the_same_set_however_flat_it_is() -> None:
    flat = torch.randn(3000, generator=torch.Generator().manual_seed(5)) * 0.3
    steep = flat * 30
    for logits in (flat, steep):
        least = sampling._least(logits[None].double().softmax(-1), 0.9)
        within = (logits.double().softmax(-1) >= least[0]).nonzero()[:, 0].tolist()
        assert within == list(nucleus(logits, 1.0, 0.9))
    assert len(nucleus(flat, 1.0, 0.9)) > sampling._FEW


def test_tokens_as_likely_as_the_last_one_count_too() -> None:
    streams = [f"row {number}" for number in range(500)]
    chosen = sampling.choose(torch.zeros(500, 10), decoding(top_p=0.05), streams, 0)
    assert set(chosen.tolist()) == set(range(10))


def test_no_other_row_changes_an_answer() -> None:
    model, prompts, ends = make("llama"), draw(17, 5), frozenset((2, *range(100, 110)))
    prompts += prompts[:4]  # Some rows ask the same.
    streams, how = [f"row {number}" for number in range(len(prompts))], decoding(1.5, 0.95)
    answers = [
        answer.tokens for answer in generate.generate(model, prompts, ends, 6, 10_000, decoding=how, streams=streams)
    ]
    assert len(set(answers)) > 17  # The rows that ask the same have answers of their own.
    for batch_tokens in (1, 64):
        other = generate.generate(model, prompts, ends, 6, batch_tokens, decoding=how, streams=streams)
        assert [answer.tokens for answer in other] == answers
    some = [20, 3, 11]
    alone = generate.generate(
        model, [prompts[at] for at in some], ends, 6, 64, decoding=how, streams=[streams[at] for at in some]
    )
    assert [answer.tokens for answer in alone] == [answers[at] for at in some]


def test_a_low_temperature_is_greedy() -> None:
    model, prompts, ends = make("llama"), draw(9, 5), frozenset((2,))
    streams = [f"row {number}" for number in range(len(prompts))]
    cold = generate.generate(model, prompts, ends, 6, 64, decoding=decoding(0.001), streams=streams)
    greedy = generate.generate(model, prompts, ends, 6, 64)
    assert [answer.tokens for answer in cold] == [answer.tokens for answer in greedy]


def test_a_kept_batch_answers_the_same_draws_alone(tmp_path: Path) -> None:
    model, prompts, ends = make("llama"), draw(9, 5), frozenset((2,))

    def ask(seed: str) -> tuple[int, list[tuple[int, ...]]]:
        kept, streams = KeptBatches(tmp_path, digest.of_bytes(b"same")), [f"{seed} {n}" for n in range(len(prompts))]
        made = generate.generate(model, prompts, ends, 6, 64, kept=kept, decoding=decoding(1.5), streams=streams)
        return kept.rows, [answer.tokens for answer in made]

    (none, first), (other, second), (again, third) = ask("one"), ask("two"), ask("one")
    assert (none, other, again) == (0, 0, len(prompts))
    assert first != second
    assert first == third
