"""What is tokenized once and continued has the tokens of the whole text, whatever the tokenizer."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LINES, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from icl_plugins.proxy.chat import PlainText
from icl_plugins.proxy.continuation import RequestEncoder, shared_runs
from icl_plugins.proxy.encoding import Encoded, TextEncoder
from icl_plugins.proxy.token_tree import common_length

CHARACTERS = st.sampled_from([*"ab \n.:é中😀012", "Query", "Intent", " card", "</s>", "  "])
LONG, SHORT = (st.lists(CHARACTERS, max_size=size).map("".join) for size in (150, 12))


def one_word_bpe():
    """As Llama 2: no pre-tokenizer, the whole text is one word, and a space is put in front of it."""
    backend = Tokenizer(models.BPE(byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    backend.train_from_iterator(LINES * 3, trainer)
    return backend


def unigram():
    """As T5 or XLNet: the likeliest split of each word, and </s> at the end of every text."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    backend.train_from_iterator(LINES * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return backend


def digits_and_words():
    """As Llama 3: digits in threes from the left, so that a cut inside a number would show."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=pre_tokenizers_regex(), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*LINES, "0 1 2 01 10 20 12 012 120 201 11 00"] * 3, trainer)
    return backend


def pre_tokenizers_regex():
    from tokenizers import Regex

    return Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module", params=["byte level", one_word_bpe, unigram, digits_and_words])
def encoder(request):
    if request.param == "byte level":
        return TextEncoder(tiny_tokenizer())
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=request.param()))


def whole_tokens(encoder, text):
    """The definition: the text alone, without tokens that the tokenizer puts at its end."""
    ((ids, spans),) = encoder.tokenize([text])
    while len(ids) > encoder.leading and spans[-1][1] == 0:
        ids, spans = ids[:-1], spans[:-1]
    return ids, spans


@settings(max_examples=150, deadline=None)
@given(LONG, st.lists(SHORT, max_size=4), st.integers(0, 300))
def test_tokens_are_those_of_each_text_alone(encoder, common, tails, cut):
    texts = [common + tail for tail in tails]
    requests = RequestEncoder(PlainText(encoder).tokenize)
    for _ in range(2):  # the second time with the text that was kept
        assert requests.tokens(texts) == [whole_tokens(encoder, text) for text in texts]
    other = [text[:cut] + "0" for text in texts]
    assert requests.tokens(other) == [whole_tokens(encoder, text) for text in other]


@settings(max_examples=150, deadline=None)
@given(LONG, st.lists(SHORT, min_size=1, max_size=4))
def test_choices_have_the_tokens_of_the_whole_text(encoder, question, choices):
    """And the answer is every token that covers one of its characters."""
    (request,) = RequestEncoder(PlainText(encoder).tokenize).requests([question], [choices])
    expected = []
    for choice in choices:
        ids, spans = whole_tokens(encoder, question + choice)
        covering = [at for at, (start, stop) in enumerate(spans) if stop > max(start, len(question))]
        expected.append(Encoded(ids, covering[0], covering[-1] + 1) if covering and covering[0] else None)
    if None in expected:
        assert request is None
        return
    assert request.behind(0) == expected
    assert request.length == max(len(one.ids) for one in expected)
    assert len(request.stem) < min(one.answer_start for one in expected)


def test_a_long_common_text_is_tokenized_once(encoder):
    sizes = []

    def tokenize(texts, begin):
        sizes.extend(map(len, texts))
        return PlainText(encoder).tokenize(texts, begin)

    requests, prompt = RequestEncoder(tokenize), "\n".join(LINES * 20)
    for query in ("what is it", "my card", "what is"):
        requests.requests([f"{prompt} {query} {end}\nIntent:" for end in "ab"], [[" card", " it"]] * 2)
    assert sum(size > 300 for size in sizes) == 1


def test_a_number_longer_than_the_overlap_is_tokenized_whole():
    """Digits in threes from the left: begun inside the number, all later threes could be others."""
    encoder = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=digits_and_words()))
    number = (
        "0212221110121202211221112212210202212221010012012210112202101222101011102110112012000212200010210212"
        "112222122120220000111201"
    )
    requests = RequestEncoder(PlainText(encoder).tokenize)
    texts = [f"a {number}{tail}" for tail in ("012012012010120001012", "100", "0111111012010")]
    assert requests.tokens(texts) == [whole_tokens(encoder, text) for text in texts]


stem_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), max_size=8)


@given(stem_lists)
def test_runs_hold_every_row_once_and_share_what_they_say(stems):
    runs = shared_runs(stems)
    assert sorted(row for _, rows in runs for row in rows) == list(range(len(stems)))
    for length, rows in runs:
        assert len({tuple(stems[row][:length]) for row in rows}) == 1


def test_requests_of_two_prompts_make_two_runs():
    first, second = [1] * 400, [2] * 900
    stems = [[*first, 5], [*second, 5], [*first, 6, 7], [*second, 6]]
    assert shared_runs(stems) == [(400, [0, 2]), (900, [1, 3])]


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_the_common_length_is_that_of_a_loop(one, other):
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    assert common_length(one, other) == common_length(tuple(one), tuple(other)) == length
    assert common_length("".join(map(str, one)), "".join(map(str, other))) == length


def test_threads_with_other_texts_do_not_mix_them_up(tokenizer):
    encoder = TextEncoder(tokenizer)
    shared = RequestEncoder(PlainText(encoder).tokenize)
    texts = [
        f"{letter} my card has not arrived {letter} " * 3 + str(row) for row in range(60) for letter in "ABCD"
    ]
    expected = [encoder.tokenize([text])[0][0] for text in texts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda text: shared.tokens([text])[0][0], texts))
    finally:
        sys.setswitchinterval(interval)
    assert found == expected
