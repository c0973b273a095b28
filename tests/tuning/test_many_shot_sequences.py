"""What is learnt of a sequence: exactly its answers, of whole examples that fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tuning_tools import NAMES, TEMPLATE, WORDS, numbers, show

from icl_plugins import Template
from icl_plugins.errors import DataError, SettingError
from icl_plugins.proxy.encoding import TextEncoder
from icl_plugins.tuning import Weighting
from icl_plugins.tuning.sequences import Sequence

TEMPLATES = [
    Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n"),
    Template(question="{text}\t", answer="{label}", separator="\n"),
    Template(question="Q: {text} A:", answer=" <{label}>.", separator=" | "),
]
ANSWERS = [" rate", " card_arrival", " lost_or_stolen_phone, what now?", " żółć", " 我的卡", " 🙂🙃", " a"]
PAIRS = [(f"Query: {WORDS[at]} {WORDS[at + 1]}\nIntent:", answer) for at, answer in enumerate(ANSWERS)]
TOKENIZER = tiny_tokenizer()
ENCODER = TextEncoder(TOKENIZER)


def learnt(sequence, weighting):
    """The texts of the runs of tokens with a weight."""
    on = np.flatnonzero(weighting.of(sequence))
    runs = np.split(on, np.flatnonzero(np.diff(on) > 1) + 1)
    return [TOKENIZER.decode([sequence.ids[at] for at in run]) for run in runs]


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_learnt_is_exactly_the_answers(template):
    pairs = [(template.question.format(text=q), template.answer.format(label=a.strip())) for q, a in PAIRS]
    sequence = show(ENCODER, pairs, template)
    assert learnt(sequence, Weighting(ends=False)) == [answer for _, answer in pairs]
    assert any(stop - start > 2 for start, stop in sequence.answers)


def test_with_ends_the_token_behind_each_answer_is_learnt_too():
    sequence = show(ENCODER, PAIRS)
    weights = Weighting().of(sequence)
    for start, stop in sequence.answers:
        assert weights[start : stop + 1].all()
        assert TOKENIZER.decode(sequence.ids[stop : stop + 1]).startswith("\n")
    assert weights.sum() == sum(stop + 1 - start for start, stop in sequence.answers)


def test_at_a_seam_in_a_space_the_answers_first_token_holds_the_space():
    template = Template(question="{text} A: ", answer="{label}", separator="\n")
    sequence = show(ENCODER, [("my card A: ", "exchange"), ("today A: ", "rate")], template)
    # " exchange" is a token of its own, and starts with the question's space; " rate" is " " and "rate"
    assert learnt(sequence, Weighting(ends=False)) == [" exchange", "rate"]


def test_last_learns_one_span_and_text_all():
    sequence = show(ENCODER, PAIRS)
    assert learnt(sequence, Weighting(targets="last", ends=False)) == [PAIRS[-1][1]]
    assert learnt(sequence, Weighting(targets="text")) == [TOKENIZER.decode(sequence.ids[1:])]
    assert learnt(show(ENCODER, PAIRS[:1]), Weighting(targets="last", ends=False)) == [PAIRS[0][1]]


def test_the_text_is_tokenized_as_the_model_reads_it_in_a_prompt():
    sequence = show(ENCODER, PAIRS)
    text = "".join(question + answer + TEMPLATE.separator for question, answer in PAIRS)
    assert sequence.ids == TOKENIZER(text)["input_ids"]
    assert sequence.ids.count(TOKENIZER.bos_token_id) == 1
    assert sequence.ends[-1] == len(sequence.ids)


def test_tokens_that_the_tokenizer_puts_behind_a_text_are_not_shown(own_tokenizer):
    from tokenizers import processors

    backend = own_tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert TextEncoder(own_tokenizer).tokenize(["a"])[0][0][-1] == 1
    assert show(TextEncoder(own_tokenizer), PAIRS) == show(ENCODER, PAIRS)


def test_without_a_bos_nothing_is_put_in_front(own_tokenizer):
    from tokenizers import processors

    own_tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    sequence = show(TextEncoder(own_tokenizer), PAIRS)
    assert sequence.ids == show(ENCODER, PAIRS).ids[1:]
    assert learnt(sequence, Weighting(ends=False)) == ANSWERS


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
answers = texts.filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(texts, answers), min_size=1, max_size=6),
    separator=st.sampled_from(["\n", "\n\n", " ", "###"]),
    limit=st.integers(4, 60),
)
def test_only_whole_examples_that_fit_are_shown(pairs, separator, limit):
    template = Template(question="{text}", answer="{label}", separator=separator)
    sequence = show(ENCODER, pairs, template, limit=limit)
    if sequence is None:
        question, answer = pairs[0]
        assert len(ENCODER.tokenize([question + answer + separator])[0][0]) > limit
        return
    assert len(sequence.ids) <= limit
    shown = "".join(q + a + separator for q, a in pairs[: len(sequence.answers)])
    assert ENCODER.tokenize([shown])[0][0] == sequence.ids
    for (start, stop), (_, answer) in zip(sequence.answers, pairs, strict=False):
        assert answer.strip() in TOKENIZER.decode(sequence.ids[start:stop])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8),
    factor=st.floats(0.1, 4.0),
    positions=st.lists(st.floats(0.1, 3.0), min_size=1, max_size=4),
)
def test_every_answer_has_the_weight_of_its_place_and_task_however_long(lengths, factor, positions):
    spans, end = [], 0
    for before, long in lengths:
        spans.append((end + before, end + before + long))
        end += before + long
    sequence = Sequence([1] * (end + 1), tuple(spans), (), (factor,) * len(spans))
    weights = Weighting(unit="answer", ends=False, positions=tuple(positions)).of(sequence)
    for shots, (start, stop) in enumerate(spans):
        expected = factor * positions[min(shots, len(positions) - 1)]
        assert weights[start:stop].sum() == pytest.approx(expected, rel=1e-5)
    assert np.flatnonzero(weights).tolist() == [at for start, stop in spans for at in range(start, stop)]


def test_an_answer_without_a_token_is_named(own_tokenizer):
    from tokenizers import normalizers

    own_tokenizer.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    with pytest.raises(DataError, match="task 'some': the answer '--' has no tokens"):
        show(TextEncoder(own_tokenizer), [("Query: a =", "--")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": "first"},
        {"unit": "word"},
        {"positions": ()},
        {"positions": (0.0, 0.0)},
        {"positions": (1.0, -1.0)},
        {"text": float("nan")},
    ],
)
def test_weights_that_cannot_be_are_named(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Weighting(**wrong)


def test_names_of_classes_are_answers_of_different_length():
    assert len({len(ENCODER.tokenize([name])[0][0]) for name in NAMES}) > 1
    assert not numbers(3).answers
