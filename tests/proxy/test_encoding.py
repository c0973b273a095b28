"""Answer tokens are those of the rendered demonstration; text of the data is never a special token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from icl_plugins.errors import DataError, ProxyError
from icl_plugins.proxy.encoding import TextEncoder

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return TextEncoder(tokenizer)


def one(encoder, question, answer):
    (example,) = encoder.demonstrations([question], [answer])
    return example


def test_a_token_over_the_seam_is_an_answer_token(encoder, tokenizer):
    """The published code tokenizes "great" alone; a prompt holds " great", another token."""
    spaced, plain = one(encoder, "It is ", "great"), one(encoder, "It is", " great")
    assert spaced == plain
    assert tokenizer.decode(spaced.ids[spaced.answer_start : spaced.answer_stop]) == " great"
    assert tokenizer.encode("great", add_special_tokens=False) != spaced.ids[spaced.answer_start :]


@settings(deadline=None, max_examples=100)
@given(TEXT, TEXT.filter(bool))
def test_tokens_are_those_of_the_whole_text_and_the_answer_is_its_end(tokenizer, question, answer):
    encoder = TextEncoder(tokenizer)
    example = one(encoder, question, answer)
    assert example.ids == tokenizer(question + answer, split_special_tokens=True).input_ids
    assert example.answer_stop == len(example.ids)
    asked = tokenizer.backend_tokenizer.encode(question + answer).offsets
    if "</s>" not in question + answer and "<s>" not in question + answer:
        assert all(stop <= len(question) for _, stop in asked[: example.answer_start])
        assert asked[example.answer_start][1] > len(question)


@pytest.mark.parametrize("text", ["</s>", "a</s>b", " <s> </s>", "<s>"])
def test_special_tokens_in_data_are_text(encoder, tokenizer, text):
    example = one(encoder, f"Query: {text}", f" {text}")
    assert example.ids[0] == tokenizer.bos_token_id
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(example.ids[1:])
    assert tokenizer.decode(example.ids[1:]) == f"Query: {text} {text}"
    assert example.ids == tokenizer(f"Query: {text} {text}", split_special_tokens=True).input_ids


class Fast:
    def __init__(self, backend):
        self.backend_tokenizer = backend


def test_special_tokens_in_data_are_text_for_unigram_models_too():
    pieces = ["<unk>", "</s>", "a", "<", "/", "s", ">", "/s>"]
    backend = Tokenizer(models.Unigram([(piece, -float(at)) for at, piece in enumerate(pieces)], 0, False))
    backend.add_special_tokens(["</s>"])
    ((ids, spans),) = TextEncoder(Fast(backend)).tokenize(["a</s>a"])
    assert ids == [2, 3, 7, 2]
    assert spans == [(0, 1), (1, 2), (2, 5), (5, 6)]


def test_special_tokens_in_data_are_text_for_whole_word_lookup_too():
    vocabulary = {"<": 0, "/": 1, "s": 2, ">": 3, "</s>": 4}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.add_special_tokens(["</s>"])
    assert TextEncoder(Fast(backend)).tokenize(["</s>"]) == [([0, 1, 2, 3], [(0, 1), (1, 2), (2, 3), (3, 4)])]


def test_an_unknown_character_stays_the_unknown_token():
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False))
    backend.add_special_tokens(["<unk>"])
    ((ids, _),) = TextEncoder(Fast(backend)).tokenize(["a!a"])
    assert ids == [1, 0, 1]


def test_counts_leave_out_the_bos(encoder, tokenizer):
    texts = ["It is great", "", "x</s>"]
    assert encoder.count(texts) == [
        len(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)) for text in texts
    ]
    assert encoder.leading == 1


def test_padding_and_truncation_of_the_callers_tokenizer_are_neither_used_nor_touched(encoder, own_tokenizer):
    own_tokenizer.backend_tokenizer.enable_truncation(4)
    own_tokenizer.backend_tokenizer.enable_padding(length=50)
    before = own_tokenizer.backend_tokenizer.to_str()
    changed = TextEncoder(own_tokenizer)
    texts = ["Query: my card has not arrived", ""]
    assert changed.tokenize(texts) == encoder.tokenize(texts)
    assert changed.fingerprint == encoder.fingerprint
    assert own_tokenizer.backend_tokenizer.to_str() == before


def test_answers_without_tokens_are_named():
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(DataError, match=r"rows \[1\]"):
        TextEncoder(Fast(backend)).demonstrations(["a", "a"], ["a", ""])


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ProxyError, match="fast tokenizer"):
        TextEncoder(object())
