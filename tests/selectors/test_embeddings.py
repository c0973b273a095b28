import sys
from types import ModuleType

import numpy as np
import pytest

from icl_plugins import KMeans, Similarity, Typicality
from icl_plugins.errors import NonFiniteError, OptionalDependencyError, SettingError, TooLongError
from icl_plugins.proxy.model import Proxy
from icl_plugins.selectors._embeddings import embed


class Encoder:
    """What is used of sentence_transformers.SentenceTransformer; vectors are counts of letters."""

    made = []
    device = "cpu"
    max_seq_length = 12

    def __init__(self, name, **options):
        Encoder.made.append((name, options))

    def tokenizer(self, texts, truncation):
        assert truncation is False
        return {"input_ids": [text.split() for text in texts]}

    def encode(self, texts, **options):
        self.texts = texts
        return np.array([[text.count(letter) for letter in "aeiour"] for text in texts], dtype=np.float32)


@pytest.fixture
def library(monkeypatch):
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(Encoder, "made", [])


def test_equal_texts_get_equal_vectors_in_the_order_of_the_texts(reader):
    texts = ["my card", "the exchange rate today", "my card", "phone"]
    vectors, details = embed(texts, "proxy", reader, "error")
    assert vectors.shape == (4, reader.hidden_size) and vectors.dtype == np.float64
    assert (vectors[0] == vectors[2]).all() and (vectors[0] != vectors[1]).any()
    alone = reader.embed(["the exchange rate today"]).numpy()
    np.testing.assert_allclose(vectors[1:2], alone, atol=1e-5)
    assert details["fingerprints"] == reader.fingerprint


@pytest.mark.parametrize("kind", [KMeans, Similarity, Typicality])
def test_a_sentence_transformers_model_needs_no_proxy(kind, pool, library, monkeypatch):
    monkeypatch.setattr(Proxy, "load", lambda *args: pytest.fail("loaded"))
    selection = kind(embeddings="some/model").select(pool, 4)
    assert len(selection) == 4 and selection.config["embeddings"] == "some/model"
    assert Encoder.made == [
        ("some/model", {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}})
    ]


@pytest.mark.parametrize("kind", [KMeans, Similarity, Typicality])
def test_a_missing_package_is_named_with_its_pip_line(kind, pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "icl-plugins\[embeddings\]"'):
        kind(embeddings="some/model").select(pool, 4)


def test_texts_are_cut_only_when_that_is_asked_for(pool, library, monkeypatch):
    monkeypatch.setattr(Encoder, "max_seq_length", 4)
    with pytest.raises(TooLongError, match="at most 4"):
        Similarity(embeddings="some/model").select(pool, 4)
    assert len(Similarity(embeddings="some/model", on_too_long="truncate").select(pool, 4)) == 4


@pytest.mark.parametrize("kind", [KMeans, Similarity, Typicality])
def test_the_policy_for_long_texts_reaches_the_proxy(kind, pool, make_model, tokenizer):
    short = Proxy.from_model(make_model(max_position_embeddings=20), tokenizer)
    with pytest.raises(TooLongError):
        kind(proxy=short).select(pool, 4)
    assert len(kind(proxy=short, on_too_long="truncate").select(pool, 4)) == 4


@pytest.mark.parametrize("kind", [KMeans, Similarity, Typicality])
def test_vectors_that_are_not_finite_are_refused_by_row(kind, pool, library, monkeypatch):
    encode = Encoder.encode

    def broken(self, texts, **options):
        vectors = encode(self, texts)
        vectors[5, 1] = np.nan
        return vectors

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(NonFiniteError, match=r"rows \[5\]"):
        kind(embeddings="some/model").select(pool, 4)


@pytest.mark.parametrize("kind", [KMeans, Similarity, Typicality])
@pytest.mark.parametrize(
    "wrong", [{"embeddings": ""}, {"embeddings": None}, {"on_too_long": "skip"}], ids=str
)
def test_settings_are_checked(kind, wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        kind(**wrong)
