"""Nothing too long is dropped in silence: it is refused by row, skipped as asked, or loses its question."""

import pytest

from icl_plugins.errors import SettingError, TooLongError
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.lengths import fit, max_length


def example(question, answer):
    ids = list(range(1 + question + answer))
    return Encoded(ids, 1 + question, 1 + question + answer)


EXAMPLES = [example(20, 2), example(3, 2), example(11, 4)]


def test_error_names_rows_lengths_and_limit():
    with pytest.raises(TooLongError) as caught:
        fit(EXAMPLES, 10, 1, "error")
    assert "0 (23 tokens), 2 (16 tokens)" in str(caught.value)
    assert "at most 10 tokens" in str(caught.value)


def test_error_names_the_first_five_rows_and_counts_all():
    with pytest.raises(TooLongError, match="9 examples") as caught:
        fit([example(20, 2)] * 9, 10, 1, "error")
    assert "4 (23 tokens)" in str(caught.value)
    assert "5 (23 tokens)" not in str(caught.value)


def test_skip_keeps_the_place_of_every_row():
    assert fit(EXAMPLES, 10, 1, "skip") == [None, EXAMPLES[1], None]


def test_truncate_cuts_the_questions_start_and_nothing_else():
    long, short, longish = fit(EXAMPLES, 10, 1, "truncate")
    assert long.ids == [0, *range(14, 23)]
    assert long.ids[long.answer_start : long.answer_stop] == [21, 22]
    assert short == EXAMPLES[1]
    assert longish.ids[longish.answer_start : longish.answer_stop] == [12, 13, 14, 15]
    assert len(longish.ids) == 10


def test_truncate_refuses_an_answer_that_does_not_fit():
    assert fit([example(5, 9)], 10, 1, "truncate")[0].ids == [0, *range(6, 15)]
    with pytest.raises(TooLongError, match="16 tokens"):
        fit([example(5, 10)], 10, 1, "truncate")


def test_just_fitting_passes_untouched():
    assert fit(EXAMPLES, 23, 1, "error") == EXAMPLES


def test_an_unknown_policy_is_refused():
    with pytest.raises(SettingError):
        fit(EXAMPLES, 23, 1, "cut")


class Config:
    def __init__(self, positions=None):
        self.max_position_embeddings = positions


class Tokenizer:
    def __init__(self, length=1e30):
        self.model_max_length = length


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [(Config(128), Tokenizer(64), 128), (Config(), Tokenizer(64), 64), (Config(), Tokenizer(), 2048)],
)
def test_the_models_own_limit_comes_first(config, tokenizer, expected):
    assert max_length(config, tokenizer)[0] == expected
