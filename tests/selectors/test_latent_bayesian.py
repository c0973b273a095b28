import numpy as np
import pytest
import torch

from icl_plugins import LatentBayesian
from icl_plugins.errors import BudgetError, NonFiniteError, SettingError, TooLongError
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.prefix import tune_prefix
from icl_plugins.selectors.latent_bayesian import concept_losses


def concept_loss_by_definition(proxy, ids, concept):
    """Read the text, then one vector after the other; each is word V + j of V words and k vectors."""
    loss = 0.0
    for j in range(len(concept)):
        text = proxy.model.get_input_embeddings()(torch.tensor([ids]))
        read = torch.cat([text, concept[None, :j]], dim=1)
        output = proxy.model.eval()(inputs_embeds=read, use_cache=False, output_hidden_states=True)
        words = output.logits[0, -1]
        vectors = concept @ output.hidden_states[-1][0, -1]
        loss -= torch.cat([words, vectors]).log_softmax(0)[len(words) + j].item()
    return loss


@pytest.fixture(scope="module")
def concept(reader):
    return torch.randn(4, reader.hidden_size, generator=torch.Generator().manual_seed(0))


def sequences(proxy, pool):
    return [ids for ids, _ in proxy.encoder.tokenize(pool.texts)]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox", "cohere"])
@pytest.mark.parametrize("slice_head", [True, False])
@torch.no_grad()
def test_losses_equal_the_loop_over_texts_and_vectors(
    architecture, slice_head, make_model, tokenizer, pool, concept
):
    """Texts of several lengths in one batch; the wrong words of the published code give other numbers."""
    proxy = Proxy.from_model(make_model(architecture, max_position_embeddings=128), tokenizer)
    proxy.slice_head = slice_head
    texts = sequences(proxy, pool)[:6]
    expected = [concept_loss_by_definition(proxy, ids, concept) for ids in texts]
    np.testing.assert_allclose(concept_losses(proxy, texts, concept), expected, rtol=1e-5)


def test_losses_do_not_depend_on_the_batches(reader, pool, concept, monkeypatch):
    texts = sequences(reader, pool)
    together = concept_losses(reader, texts, concept)
    monkeypatch.setattr(reader.budget, "tokens", 1)
    np.testing.assert_allclose(concept_losses(reader, texts, concept), together, rtol=1e-5)


def test_examples_that_make_the_tuned_prefix_likely_come_first(reader, pool):
    selection = LatentBayesian(proxy=reader, epochs=2, batch_size=8, prefix_length=2, seed=7).select(pool, 5)
    curriculum = tune_prefix(reader, pool, length=2, epochs=2, batch_size=8, seed=7)
    losses = concept_losses(reader, sequences(reader, pool), curriculum.checkpoints[-1])
    assert selection.indices == tuple(np.argsort(losses, kind="stable")[:5])
    np.testing.assert_allclose(selection.scores, -np.sort(losses)[:5])


@pytest.fixture(scope="module")
def short(make_model, tokenizer):
    return Proxy.from_model(make_model(max_position_embeddings=24), tokenizer)


def test_examples_too_long_for_the_proxy_are_refused_or_counted(short, pool):
    quick = {"proxy": short, "epochs": 1, "batch_size": 8}
    lengths = [len(ids) for ids in sequences(short, pool)]
    too_long = [row for row, length in enumerate(lengths) if length > 24 - 4]
    assert 0 < len(too_long) < len(pool)
    with pytest.raises(TooLongError):
        LatentBayesian(**quick).select(pool, 3)
    selector = LatentBayesian(**quick, on_too_long="skip")
    usable = len(pool) - len(too_long)
    selection = selector.select(pool, usable)
    assert selection.report()["skipped"] == {"too long for the proxy": too_long}
    assert not set(selection.indices) & set(too_long)
    with pytest.raises(BudgetError):
        selector.select(pool, usable + 1)
    with pytest.raises(BudgetError, match="include"):
        selector.select(pool, 3, include=too_long[:1])
    assert len(LatentBayesian(**quick, on_too_long="truncate").select(pool, len(pool))) == len(pool)


def test_losses_that_are_not_finite_are_refused_by_row(reader, pool, monkeypatch):
    from icl_plugins.selectors import latent_bayesian

    def broken(proxy, texts, concept):
        return np.where(np.arange(len(texts)) == 9, np.nan, 1.0)

    monkeypatch.setattr(latent_bayesian, "concept_losses", broken)
    with pytest.raises(NonFiniteError, match=r"rows \[9\]"):
        LatentBayesian(proxy=reader, epochs=1).select(pool, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"prefix_length": 0}, {"epochs": 1.0}, {"batch_size": True}, {"learning_rate": -1}, {"warmup": 2}]
    + [{"learning_rate": 0}, {"on_too_long": "drop"}],
    ids=str,
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        LatentBayesian(**wrong)
