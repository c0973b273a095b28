"""Context tuning: the losses of left-out demonstrations against the plain way, and what training does."""

import numpy as np
import pytest
import torch
from thinking_tools import LABELS, TEMPLATE, make_prompt, queries

from icl_plugins import KVState, ManyShotPrompt, Proxy
from icl_plugins.errors import NonFiniteError, ProxyError, SettingError
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking import training
from icl_plugins.thinking.context_tuning import ContextTuning
from icl_plugins.thinking.left_out import left_out, left_out_losses, rows_of
from icl_plugins.thinking.prefix import demonstration_starts, prefix_tokens

MASKED = ("llama", "mistral", "gemma2", "gemma3_text", "qwen2", "gpt2", "opt", "gpt_neox", "phi3", "gptj")


def parts_of(proxy, prompt, layout="single"):
    texts = LocalTexts(proxy, layout)
    ids = prefix_tokens(texts, prompt)
    return ids, left_out(prompt, texts, ids), read(proxy, ids, PrefixState()).layers


@torch.no_grad()
def slow_loss(proxy, layers, ids, one):
    """One demonstration alone, behind the keys and values of the others, which stay where they are."""
    length, size = len(ids), len(one.query.ids)
    sees = torch.ones(size, length + size, dtype=torch.bool).tril(length)
    sees[:, one.start : one.stop] = False
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    window = getattr(proxy.model.config, "sliding_window", None)
    far = (torch.arange(size)[:, None] + length) - torch.arange(length + size) >= (window or 10**9)
    sliding = mask.masked_fill(far, torch.finfo(torch.float32).min)
    kinds = set(getattr(proxy.model.config, "layer_types", None) or ())
    masks = {
        kind: (sliding if kind == "sliding_attention" else mask)[None, None]
        for kind in kinds or {"sliding_attention" if window else "full_attention"}
    }
    logits = proxy.model(
        input_ids=torch.tensor([one.query.ids]),
        position_ids=torch.arange(length, length + size)[None],
        attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
        past_key_values=PrefixState(ids, layers, length).cache(),
        use_cache=True,
    ).logits[0]
    log_p = logits.log_softmax(-1)
    places = range(one.query.answer_start, one.query.answer_stop)
    return -sum(float(log_p[place - 1, one.query.ids[place]]) for place in places)


@pytest.mark.parametrize("family", MASKED)
def test_losses_in_one_row_are_those_of_each_alone(proxy_of, family):
    proxy = proxy_of(family)
    ids, found, layers = parts_of(proxy, make_prompt(5))
    losses = left_out_losses(proxy, layers, ids, found)
    expected = [slow_loss(proxy, layers, ids, one) for one in found]
    torch.testing.assert_close(losses.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_a_demonstration_does_not_see_itself(proxy_of):
    """Whatever its own slots hold, its loss stays; the losses of the others do not."""
    proxy = proxy_of()
    ids, found, layers = parts_of(proxy, make_prompt(5))
    before = left_out_losses(proxy, layers, ids, found)
    changed = tuple((keys.clone(), values.clone()) for keys, values in layers)
    for keys, values in changed:
        keys[:, :, found[2].start : found[2].stop] += 1
        values[:, :, found[2].start : found[2].stop] -= 1
    moved = (left_out_losses(proxy, changed, ids, found) - before).abs() > 1e-4
    assert moved.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("instruction", ["", "Name the intent."])
def test_the_slots_of_a_demonstration_hold_its_text(proxy_of, instruction):
    proxy, prompt = proxy_of(), make_prompt(5, instruction=instruction)
    ids, found, _ = parts_of(proxy, prompt)
    assert found[-1].stop == len(ids)
    for one, following in zip(found, found[1:], strict=False):
        assert one.stop == following.start
    for one, (question, answer) in zip(found, prompt.demonstrations, strict=True):
        text = proxy.tokenizer.decode(list(ids[one.start : one.stop]))
        assert text.strip() == (question + answer).strip()
        spoken = one.query.ids[one.query.answer_start : one.query.answer_stop]
        assert proxy.tokenizer.decode(spoken) == answer


def test_chat_layouts_leave_out_whole_turns():
    proxy, prompt = Proxy.load("micro"), make_prompt(4, instruction="Name the intent.")
    texts = LocalTexts(proxy, "turns")
    ids = prefix_tokens(texts, prompt)
    starts = [*demonstration_starts(texts, prompt, ids), len(ids)]
    for at, (question, answer) in enumerate(prompt.demonstrations):
        text = proxy.tokenizer.decode(list(ids[starts[at] : starts[at + 1]]))
        assert question in text
        assert answer.strip() in text


def test_rows_hold_every_query_once_in_order(proxy_of):
    _, found, _ = parts_of(proxy_of(), make_prompt(9))
    rows = list(rows_of(found, tokens=60))
    assert [one for row in rows for one in row] == found
    assert len(rows) > 2
    assert all(sum(len(one.query.ids) for one in row) <= 60 for row in rows)


@pytest.mark.parametrize("tokens", [60, 10**6])
def test_gradients_do_not_depend_on_how_queries_are_packed(proxy_of, tokens):
    proxy = proxy_of()
    ids, found, layers = parts_of(proxy, make_prompt(6))
    leaves = [part.clone().requires_grad_(True) for layer in layers for part in layer]
    own = tuple(zip(leaves[::2], leaves[1::2], strict=True))
    for row in rows_of(found, tokens):
        left_out_losses(proxy, own, ids, row).sum().backward()
    alone = [part.clone().requires_grad_(True) for layer in layers for part in layer]
    for one in found:
        left_out_losses(proxy, tuple(zip(alone[::2], alone[1::2], strict=True)), ids, [one]).sum().backward()
    for packed, single in zip(leaves, alone, strict=True):
        torch.testing.assert_close(packed.grad, single.grad, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_finite_differences(proxy_of):
    proxy = proxy_of()
    ids, found, layers = parts_of(proxy, make_prompt(4))
    values = layers[1][1].clone().requires_grad_(True)

    def loss(values):
        return left_out_losses(proxy, (layers[0], (layers[1][0], values)), ids, found).sum()

    loss(values).backward()
    way = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (loss(values + 1e-2 * way) - loss(values - 1e-2 * way)) / 2e-2
    assert float((values.grad * way).sum()) == pytest.approx(float(difference), rel=2e-2)


def test_one_step_is_plain_in_context_learning_and_more_lower_the_loss(proxy_of):
    proxy, prompt = proxy_of(), make_prompt(6)
    _, _, layers = parts_of(proxy, prompt)
    once = ContextTuning(proxy, steps=1).fit(prompt)
    for one, other in zip(once.layers, layers, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    losses = ContextTuning(proxy, steps=9).fit(prompt).thinking["losses"]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.1


def test_the_first_step_is_adams(proxy_of):
    """The first step of Adam is the learning rate, against the sign of the gradient."""
    proxy, prompt = proxy_of(), make_prompt(4)
    ids, found, layers = parts_of(proxy, prompt)
    leaves = [part.clone().requires_grad_(True) for layer in layers for part in layer]
    left_out_losses(proxy, tuple(zip(leaves[::2], leaves[1::2], strict=True)), ids, found).sum().backward()
    state = ContextTuning(proxy, steps=2, learning_rate=0.01).fit(prompt)
    tuned = [part for layer in state.layers for part in layer]
    for before, after in zip(leaves, tuned, strict=True):
        clear = before.grad.abs() > 1e-4
        moved = (after - before.detach())[clear]
        torch.testing.assert_close(moved, -0.01 * before.grad[clear].sign(), rtol=1e-2, atol=1e-5)


def test_dropout_is_drawn_by_the_seed(proxy_of):
    prompt = make_prompt(6)
    settings = {"steps": 4, "dropout": 0.5}
    one, same, other = (
        ContextTuning(proxy_of(), seed=seed, **settings).fit(prompt).layers[0][1] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_micro_answers_held_out_demonstrations_better():
    """On shipped data, chosen on the prompt alone: the loss of other examples falls."""
    from importlib.resources import files

    from icl_plugins import Pool, Random

    path = files("icl_plugins") / "data" / "banking77.jsonl"
    pool = Pool.from_jsonl(str(path), TEMPLATE)
    labels = sorted(set(pool.answers))[:4]
    pool = Pool.from_records([one for one in pool.examples if f" {one['label']}" in labels], TEMPLATE)
    prompt = Random(seed=0).select(pool, shots=16).to_prompt()
    shown = {question for question, _ in prompt.demonstrations}
    rows = [row for row in range(len(pool)) if pool.questions[row] not in shown]
    golds = [labels.index(pool.answers[row]) for row in rows]
    loss = {}
    for steps in (1, 8):
        scores = (
            ContextTuning("micro", steps=steps)
            .fit(prompt)
            .score([pool.examples[row] for row in rows], labels)
        )
        loss[steps] = -float(scores[np.arange(len(rows)), golds].mean())
    assert loss[8] < loss[1]


def test_a_tuned_state_is_saved_and_told_apart(proxy_of, tmp_path):
    prompt = make_prompt(6)
    one, other = (ContextTuning(proxy_of(), steps=3, learning_rate=rate).fit(prompt) for rate in (0.01, 0.02))
    assert one.fingerprint != other.fingerprint
    one.save(tmp_path)
    found = KVState.load(tmp_path, proxy_of())
    assert torch.equal(found.score(queries(), LABELS), one.score(queries(), LABELS))
    assert (found.thinking["method"], found.thinking["learning_rate"]) == ("context tuning", 0.01)


def test_the_model_is_not_trained(tokenizer):
    from thinking_tools import make_proxy

    proxy = make_proxy("gpt2", tokenizer)  # with dropout
    proxy.model.train()
    before = {name: tensor.clone() for name, tensor in proxy.model.state_dict().items()}
    random = torch.random.get_rng_state()
    first, second = (ContextTuning(proxy, steps=3, dropout=0.2).fit(make_prompt(4)) for _ in range(2))
    assert torch.equal(first.layers[0][0], second.layers[0][0])
    assert proxy.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in proxy.model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in proxy.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_half_precision_trains_in_float32():
    state = ContextTuning(Proxy.load("micro", dtype="bfloat16"), steps=3).fit(make_prompt(4))
    assert {part.dtype for layer in state.layers for part in layer} == {torch.float32}


def test_candidates_are_chosen_among_on_held_out_demonstrations(proxy_of):
    state = ContextTuning(proxy_of(), learning_rate=(0.003, 0.03), max_steps=3, folds=3).fit(make_prompt(6))
    assert [one["learning_rate"] for one in state.thinking["held_out"]] == [0.003, 0.03]
    assert state.thinking["steps"] in (1, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": 0},
        {"learning_rate": ()},
        {"dropout": 1.0},
        {"max_steps": 0},
        {"folds": 1},
        {"layout": "chat"},
        {"seed": -1},
        {"model": 3},
    ],
)
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        ContextTuning(**wrong)


def test_too_few_demonstrations_and_models_without_masks_are_refused(proxy_of):
    with pytest.raises(SettingError, match="three at least"):
        ContextTuning(proxy_of()).fit(make_prompt(2))
    with pytest.raises(SettingError, match="0 demonstrations"):
        ContextTuning(proxy_of()).fit(ManyShotPrompt(TEMPLATE, (), ()))
    with pytest.raises(ProxyError, match="no mask of its own"):
        ContextTuning(proxy_of("bloom")).fit(make_prompt(4))


def test_training_that_leaves_the_numbers_is_refused(proxy_of, monkeypatch):
    monkeypatch.setattr(
        training, "left_out_losses", lambda *args: torch.full((1,), torch.nan, requires_grad=True)
    )
    with pytest.raises(NonFiniteError, match="lower learning_rate"):
        ContextTuning(proxy_of(), steps=3).fit(make_prompt(4))


def test_a_model_by_name_is_loaded_once(monkeypatch):
    from icl_plugins.proxy import model

    loaded, load = [], model.load_checkpoint
    monkeypatch.setattr(model, "load_checkpoint", lambda *args: loaded.append(args) or load(*args))
    ContextTuning("micro", steps=2).fit(make_prompt(3))
    assert len(loaded) == 1


def test_inference_mode_does_not_keep_it_from_training(proxy_of):
    expected = ContextTuning(proxy_of(), steps=3).fit(make_prompt(4))
    with torch.inference_mode():
        state = ContextTuning(proxy_of(), steps=3).fit(make_prompt(4))
    torch.testing.assert_close(state.layers[0][0], expected.layers[0][0])


@pytest.mark.parametrize("layout", ["turns", "json"])
def test_equal_questions_have_slots_of_their_own(layout):
    """Each is looked for behind the one before."""
    proxy, texts = Proxy.load("micro"), LocalTexts(Proxy.load("micro"), layout)
    one = make_prompt(2)
    prompt = ManyShotPrompt(one.template, one.demonstrations * 2, one.examples * 2)
    ids = prefix_tokens(texts, prompt)
    starts = demonstration_starts(texts, prompt, ids)
    assert starts == sorted(set(starts))
    for start, (question, _) in zip(starts, prompt.demonstrations, strict=True):
        assert proxy.tokenizer.decode(list(ids[start : start + 2])).strip().startswith(question[:5])
