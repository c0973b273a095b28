from types import SimpleNamespace

import numpy as np
import pytest

from icl_plugins import BestOfN, Pool, Random
from icl_plugins.errors import BudgetError, NonFiniteError, SettingError, TooLongError
from icl_plugins.proxy import shared_prefix
from icl_plugins.proxy.model import Proxy
from icl_plugins.selectors import best_of_n
from icl_plugins.selectors._context import context_losses

ARCHITECTURES = [
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "opt",
    "gpt_neox",
    "bloom",
    "cohere",
]


def parts(pool, rows):
    return [pool.questions[row] for row in rows], [pool.answers[row] for row in rows]


def whole_prompt_losses(proxy, pool, shown, rows):
    """The definition: each prompt in one piece, its answer tokens found in it, no cache."""
    context = "".join(pool.texts[i] + pool.template.separator for i in shown)
    questions, answers = parts(pool, rows)
    prompts = SimpleNamespace(questions=[context + question for question in questions], answers=answers)
    return proxy.answer_losses(prompts).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("slice_head", [True, False])
def test_losses_behind_a_shared_context_equal_those_of_whole_prompts(
    architecture, slice_head, make_model, tokenizer, pool
):
    proxy = Proxy.from_model(make_model(architecture, max_position_embeddings=256), tokenizer)
    proxy.slice_head = slice_head
    shown, rows = (3, 0, 8), range(10, 15)
    losses = context_losses(proxy, [pool.texts[i] for i in shown], "\n\n", *parts(pool, rows))
    np.testing.assert_allclose(losses, whole_prompt_losses(proxy, pool, shown, rows), rtol=1e-5)


def test_a_model_with_recurrent_layers_reads_the_context_again(tokenizer, pool):
    """Its state cannot be shared as keys and values can."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 330, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("lfm2", **sizes, **heads))
    proxy = Proxy.from_model(model, tokenizer)
    losses = context_losses(proxy, [pool.texts[4]], "\n\n", *parts(pool, range(6)))
    np.testing.assert_allclose(losses, whole_prompt_losses(proxy, pool, [4], range(6)), rtol=1e-5)


def test_losses_do_not_depend_on_the_batches(reader, pool, monkeypatch):
    arguments = ([pool.texts[1]], "\n\n", *parts(pool, range(12)))
    together = context_losses(reader, *arguments)
    monkeypatch.setattr(reader.budget, "tokens", 1)
    np.testing.assert_allclose(context_losses(reader, *arguments), together, rtol=1e-5)


def test_the_set_with_the_lowest_loss_is_kept(reader, pool):
    selection = BestOfN(sets=4, held_out=6, proxy=reader, seed=2).select(pool, 3)
    generator = np.random.default_rng(2)
    sets = [tuple(generator.permutation(24)[:3].tolist()) for _ in range(4)]
    order = generator.permutation(24).tolist()
    losses = []
    for shown in sets:
        rows = [row for row in order if row not in shown][:6]
        losses.append(whole_prompt_losses(reader, pool, shown, rows).mean())
    np.testing.assert_allclose(selection.details["set_losses"], losses, rtol=1e-5)
    assert selection.indices == sets[int(np.argmin(losses))]
    np.testing.assert_allclose(selection.scores, [-min(losses)] * 3, rtol=1e-5)


def test_the_model_is_tried_out_once_for_all_sets(make_model, tokenizer, pool, monkeypatch):
    tried = []
    choose_way = shared_prefix.choose_way
    monkeypatch.setattr(shared_prefix, "choose_way", lambda proxy: tried.append(proxy) or choose_way(proxy))
    proxy = Proxy.from_model(make_model(max_position_embeddings=2048), tokenizer)
    BestOfN(sets=3, held_out=4, proxy=proxy).select(pool, 4)
    assert tried == [proxy]


def test_one_set_is_what_random_selects(reader, pool):
    for seed in range(3):
        expected = Random(seed=seed).select(pool, 5, quotas=1).indices
        assert (
            BestOfN(sets=1, held_out=1, proxy=reader, seed=seed).select(pool, 5, quotas=1).indices == expected
        )


def test_what_is_shown_is_never_held_out(records, pool):
    """Nor is its copy elsewhere in the pool, whose answer could be read off."""
    doubled = Pool.from_records([*records, *records], pool.template)
    rows = best_of_n.held_out_rows(doubled, [0, 25], range(48), 100)
    assert sorted(rows) == [row for row in range(48) if row % 24 not in (0, 1)]


def test_nothing_to_try_sets_on_is_refused_before_the_proxy_is_loaded(pool, monkeypatch):
    monkeypatch.setattr(Proxy, "load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(BudgetError, match="try them on"):
        BestOfN().select(pool, len(pool))


def test_demonstrations_that_do_not_fit_the_proxy_are_refused(make_model, tokenizer, pool):
    proxy = Proxy.from_model(make_model(max_position_embeddings=128), tokenizer)
    with pytest.raises(TooLongError, match="at most 128"):
        BestOfN(proxy=proxy).select(pool, 12)


def test_losses_that_are_not_finite_are_refused_by_row(reader, pool, monkeypatch):
    monkeypatch.setattr(
        best_of_n, "context_losses", lambda *args: np.where(np.arange(len(args[3])) == 0, np.inf, 1.0)
    )
    with pytest.raises(NonFiniteError, match="rows"):
        BestOfN(proxy=reader).select(pool, 3)


@pytest.mark.parametrize("wrong", [{"sets": 0}, {"sets": True}, {"held_out": 0}, {"held_out": 2.5}], ids=str)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        BestOfN(**wrong)
