import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sklearn.metrics import f1_score

from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.metrics import METRICS, Metric, as_metric, normalised
from icl_plugins.evaluation.results import Evaluation

LABELS = st.sampled_from(["a", "b", "c", "d"])
PAIRS = st.lists(st.tuples(st.one_of(st.none(), LABELS), LABELS), min_size=1, max_size=20)
TEXT = st.text("ab c", min_size=1, max_size=9).filter(str.strip)


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_accuracy_is_the_share_of_equal_labels_and_no_prediction_is_wrong(pairs):
    predictions, golds = zip(*pairs, strict=True)
    share = sum(p == g for p, g in pairs) / len(pairs)
    assert METRICS["accuracy"].value(predictions, golds) == pytest.approx(share)


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_macro_f1_equals_scikit_learn(pairs):
    predictions, golds = zip(*pairs, strict=True)
    named = [prediction or "none" for prediction in predictions]
    expected = f1_score(golds, named, labels=sorted(set(golds)), average="macro", zero_division=0)
    assert METRICS["macro_f1"].value(predictions, golds) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.one_of(st.none(), TEXT), TEXT), min_size=1, max_size=5))
def test_character_bleu_equals_sacrebleu_on_items_and_on_all_of_them(pairs):
    predictions, golds = zip(*pairs, strict=True)
    written = [prediction or "" for prediction in predictions]
    bleu = BLEU(tokenize="char", effective_order=True)
    by_item = [bleu.sentence_score(p, [g]).score / 100 for p, g in zip(written, golds, strict=True)]
    metric = METRICS["character_bleu"]
    assert metric.values(predictions, golds) == pytest.approx(by_item)
    assert metric.value(predictions, golds) == pytest.approx(bleu.corpus_score(written, [golds]).score / 100)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(METRICS)), PAIRS, st.data())
def test_the_value_of_a_resample_is_that_of_the_items_written_out(name, pairs, data):
    """What a bootstrap draws: counts times how often each item was drawn."""
    metric, (predictions, golds) = METRICS[name], zip(*pairs, strict=True)
    drawn = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=25))
    weights = np.bincount(drawn, minlength=len(pairs))
    fast = metric.total(np.stack([weights @ metric.counts(predictions, golds)] * 2))
    slow = metric.value([predictions[i] for i in drawn], [golds[i] for i in drawn])
    assert fast == pytest.approx([slow, slow])


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("The Answer.", "answer"),
        ("  an  apple,\tred ", "apple red"),
        ("ÉCOLE", "école"),
        ("«¿Qué?»", "qué"),
        ("straße", "STRASSE"),
        ("ｆｕｌｌ", "full"),
        ("A", "a"),
    ],
)
def test_normalised_exact_match_ignores_case_punctuation_articles_and_space(prediction, gold):
    assert METRICS["normalised_exact_match"].values([prediction], [gold]) == (1.0,)


@pytest.mark.parametrize(("prediction", "gold"), [("the", "a"), ("?", "!"), ("b", "a"), ("theory", "ory")])
def test_normalised_exact_match_does_not_make_different_answers_equal(prediction, gold):
    assert METRICS["normalised_exact_match"].values([prediction], [gold]) == (0.0,)


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert normalised(normalised(text)) == normalised(text)


def test_a_function_is_a_metric_whose_value_is_the_mean():
    def share(prediction, gold):
        return len(prediction) / len(gold)

    metric = as_metric(share)
    assert (metric.name, metric.values(["ab", None], ["abcd", "x"])) == ("share", (0.5, 0.0))
    assert metric.value(["ab", None], ["abcd", "x"]) == 0.25
    assert as_metric(metric) is metric


def test_every_metric_is_found_by_its_name():
    assert all(as_metric(name).name == name for name in METRICS)


@pytest.mark.parametrize("wrong", ["acuracy", 3, None, Metric("accuracy", lambda p, g: 1.0)])
def test_an_unknown_metric_is_refused_with_the_known_ones(wrong):
    with pytest.raises(SettingError, match="macro_f1"):
        as_metric(wrong)


def test_a_function_cannot_take_the_name_of_a_metric():
    def accuracy(prediction, gold):
        return 1.0

    with pytest.raises(SettingError, match="another name"):
        as_metric(accuracy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "high"])
def test_a_metric_that_gives_no_finite_number_is_refused_with_the_item(value):
    with pytest.raises(NonFiniteError, match="of item 1"):
        Metric("odd", lambda p, g: value if g == "b" else 1.0).values(["x", "y"], ["a", "b"])


def test_an_evaluation_knows_the_value_of_its_metric():
    golds, predictions = ("a", "a", "b"), ("a", "b", None)
    made = Evaluation("t", "p", "macro_f1", golds, predictions, (1.0, 0.0, 0.0))
    assert made.value == pytest.approx(
        f1_score(golds, ["a", "b", "none"], labels=["a", "b"], average="macro")
    )
    assert Evaluation("t", "p", "mine", golds, predictions, (0.5, 0.25, 0.0)).value == 0.25
