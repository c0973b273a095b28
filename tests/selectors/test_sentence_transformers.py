"""The real sentence-transformers, with a tiny random BERT from a folder."""

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from icl_plugins import KMeans, Similarity
from icl_plugins.errors import ProxyError, TooLongError
from icl_plugins.selectors._embeddings import sentence_encoder

sentence_transformers = pytest.importorskip("sentence_transformers")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, **shape)
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(16)]
    sentence_transformers.SentenceTransformer(modules=modules).save(str(folder / "whole"))
    return str(folder / "whole")


@pytest.mark.parametrize("kind", [Similarity, KMeans])
def test_a_model_from_a_folder_chooses_without_the_proxy(kind, pool, folder, tokenizer_folder):
    selection = kind(embeddings=folder, on_too_long="truncate", tokenizer=tokenizer_folder).select(pool, 5)
    assert len(set(selection.indices)) == 5


def test_texts_beyond_the_models_limit_are_refused(pool, folder):
    with pytest.raises(TooLongError, match="at most 32 tokens"):
        Similarity(embeddings=folder).select(pool, 5)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ProxyError, match="nothing.*folder"):
        sentence_encoder(str(tmp_path / "nothing"))
