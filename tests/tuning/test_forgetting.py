"""Forgetting: exactly nothing for an untouched model, and the definitions for one that has changed."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from icl_plugins import Pool, Proxy, Template
from icl_plugins.errors import DataError, NonFiniteError, SettingError
from icl_plugins.tuning import Task
from icl_plugins.tuning.answered import answered
from icl_plugins.tuning.curves import curve_of
from icl_plugins.tuning.forgetting import backward_transfer, changes, forgetting
from icl_plugins.tuning.plain_text import text_change

TEMPLATE = Template("Q {text}:", " {label}", "\n")
TEXT = ["My card has not arrived yet, what now?", "Two hours I will never get back. " * 4, "A film"]


def task(name="cards", free=False, rows=24):
    labels = [f"own {row}" if free else ("qqq", "xxx", "zzz")[row % 3] for row in range(rows)]
    records = [{"text": f"{row} card", "label": label} for row, label in enumerate(labels)]
    return Task(name, Pool.from_records(records, TEMPLATE))


def moved(proxy, scale=0.1, seed=0):
    """A model whose weights have all moved a little."""
    model, generator = deepcopy(proxy.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += scale * torch.randn(weight.shape, generator=generator)
    return Proxy.from_model(model, proxy.tokenizer, "moved")


def test_an_untouched_model_has_forgotten_exactly_nothing(proxy):
    same = Proxy.from_model(deepcopy(proxy.model), proxy.tokenizer, "same")
    tasks = [task(), task("free", free=True)]
    found = forgetting(proxy, same, tasks=tasks, text=TEXT, shots=(0, 2), items=6, draws=2)
    assert [len(one.changes) for one in found.tasks] == [2, 2]
    for one in found.tasks:
        assert one.before == one.after
        for change in one.changes:
            for interval in (change.accuracy, change.nats):
                assert interval is None or (interval.mean, interval.low, interval.high) == (0, 0, 0)
    assert found.text.divergence == 0
    assert found.text.before == found.text.after > 0


def test_a_new_adapter_has_forgotten_exactly_nothing(proxy):
    from peft import LoraConfig, get_peft_model

    inner = deepcopy(proxy.model)
    get_peft_model(inner, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = text_change(proxy, Proxy.from_model(inner, proxy.tokenizer), TEXT)
    assert (found.divergence, found.after) == (0, found.before)


def test_changes_are_those_of_each_item_and_draw(proxy):
    other = moved(proxy, 0.5)
    arguments = {"shots": (0, 2, 4), "items": 8, "draws": 3, "seed": 1}
    before, after = (answered(one, task(), **arguments) for one in (proxy, other))
    found = forgetting(proxy, other, tasks=[task()], text=TEXT, **arguments).tasks[0]
    assert (found.before, found.after) == tuple(
        curve_of(answered(one, task(), **arguments)) for one in (proxy, other)
    )
    assert [change.shots for change in found.changes] == [0, 2, 4]
    for at, change in enumerate(found.changes):
        nats = after.nats[at] - before.nats[at]
        hits = after.right[at].astype(int) - before.right[at]
        assert nats.shape == (1 if at == 0 else 3, 8)
        assert change.nats.mean == pytest.approx(nats.mean())
        assert change.accuracy.mean == pytest.approx(hits.mean())
        assert change.nats.low < change.nats.mean < change.nats.high
    assert any(change.accuracy.mean for change in found.changes)


def test_free_answers_have_nats_and_no_accuracy(proxy):
    found = forgetting(proxy, moved(proxy), tasks=[task(free=True)], text=TEXT, shots=(2,), items=8, draws=2)
    (change,) = found.tasks[0].changes
    assert change.accuracy is None
    assert change.nats.mean != 0


def test_shots_that_only_one_of_both_fits_are_left_out(proxy, make_model):
    short = make_model(max_position_embeddings=48)
    short.load_state_dict(proxy.model.state_dict())
    tuned = Proxy.from_model(short, proxy.tokenizer, "short")
    before, after = (answered(one, task(), (0, 2, 9), items=4, draws=1) for one in (proxy, tuned))
    assert (before.shots, after.shots) == ((0, 2, 9), (0, 2))
    assert [change.shots for change in changes(before, after)] == [0, 2]


def test_answers_to_different_items_are_not_compared(proxy):
    before = answered(proxy, task(), (0,), items=4, draws=1)
    for after in (
        answered(proxy, task(), (0,), items=4, draws=1, seed=1),
        answered(proxy, task("other"), (0,), items=4, draws=1),
        answered(proxy, task(), (0,), items=4, draws=2),
    ):
        with pytest.raises(SettingError, match="different items or draws"):
            changes(before, after)


@torch.no_grad()
def slow_text(base, tuned, window):
    """Nats and KL by the definitions, with the logits of all positions."""
    nats, divergences = [[], []], []
    for text in TEXT:
        bos, *ids = base.tokenizer(text)["input_ids"]
        for start in range(0, len(ids), window - 1):
            piece = [bos, *ids[start : start + window - 1]]
            log_p = [
                one.model(torch.tensor([piece])).logits[0].double().log_softmax(-1) for one in (base, tuned)
            ]
            for at, token in enumerate(piece[1:]):
                for found, each in zip(nats, log_p, strict=True):
                    found.append(-float(each[at, token]))
                p, q = (each[at].exp() for each in log_p)
                divergences.append(float((p * (p.log() - q.log())).sum()))
    return *(float(np.mean(found)) for found in (*nats, divergences)), len(divergences)


@pytest.mark.parametrize("window", [2, 16, 128])
def test_text_is_measured_by_the_definitions(proxy, window):
    tuned = moved(proxy)
    found = text_change(proxy, tuned, TEXT, window=window)
    before, after, divergence, tokens = slow_text(proxy, tuned, window)
    assert found.tokens == tokens
    assert (found.before, found.after) == pytest.approx((before, after), rel=1e-5)
    assert found.divergence == pytest.approx(divergence, rel=1e-3)
    assert found.divergence > 1e-3


def test_divergence_is_from_the_base(proxy):
    tuned = moved(proxy, 0.3)
    there, back = text_change(proxy, tuned, TEXT), text_change(tuned, proxy, TEXT)
    assert (there.before, there.after) == (back.after, back.before)
    assert abs(there.divergence - back.divergence) > 1e-3


def test_models_are_left_as_they_came(make_model, tokenizer):
    models = [make_model("gpt2", resid_pdrop=0.5) for _ in range(2)]
    base, tuned = (Proxy.from_model(model, tokenizer) for model in models)
    for model in models:
        model.train()
    found = text_change(base, tuned, TEXT)
    assert found.divergence == 0  # no dropout
    assert all(model.training for model in models)
    assert all(weight.requires_grad and weight.grad is None for weight in models[1].parameters())


@pytest.mark.parametrize("text", [[], (), [""], ["fine", "", "fine"], "one string"])
def test_text_that_is_none_is_refused(proxy, text):
    with pytest.raises(DataError, match="no text|without a token|one string"):
        forgetting(proxy, proxy, tasks=[task()], text=text)


def test_models_with_different_tokenizers_are_refused(proxy):
    with pytest.raises(SettingError, match="different tokenizers"):
        forgetting(proxy, Proxy.load("micro"), tasks=[task()], text=TEXT)


def test_models_of_different_vocabularies_are_refused(proxy, make_model, tokenizer):
    larger = Proxy.from_model(make_model(vocab_size=340), tokenizer)
    with pytest.raises(SettingError, match="different tokenizers"):
        text_change(proxy, larger, TEXT)


@pytest.mark.parametrize("window", [0, 1, 129, 2.5])
def test_windows_that_do_not_fit_are_refused(proxy, window):
    with pytest.raises(SettingError, match="window"):
        text_change(proxy, proxy, TEXT, window=window)


def test_a_model_that_gives_no_numbers_is_refused(proxy):
    broken = moved(proxy)
    with torch.no_grad():
        broken.model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="'moved'"):
        text_change(proxy, broken, TEXT)


def test_tasks_that_are_too_small_are_refused_before_anything_is_read(proxy, monkeypatch):
    monkeypatch.setattr("icl_plugins.tuning.forgetting.text_change", lambda *args: pytest.fail("read"))
    with pytest.raises(DataError, match="has 5 examples"):
        forgetting(proxy, proxy, tasks=[task(rows=5)], text=TEXT)
    with pytest.raises(SettingError, match="tasks"):
        forgetting(proxy, proxy, tasks=[], text=TEXT)


def test_backward_transfer_is_the_end_minus_right_after():
    after_each = [[0.9, 0.1, 0.2], [0.7, 0.8, 0.2], [0.5, 0.85, 0.6]]
    assert backward_transfer(after_each) == pytest.approx((-0.4 + 0.05 + 0) / 3)
    unread = np.array(after_each)
    unread[0, 1:] = unread[1, [0, 2]] = np.nan
    assert backward_transfer(unread) == backward_transfer(after_each)


@pytest.mark.parametrize("wrong", [[], [[1.0]], [1.0, 2.0], [[1.0, 2.0]], [[np.nan, 0], [1, 1]]])
def test_accuracies_that_say_nothing_are_refused(wrong):
    with pytest.raises(SettingError, match="accuracies of shape"):
        backward_transfer(wrong)
