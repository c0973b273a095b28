import threading
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from small_targets import LABELS, TEMPLATE, Scorer, Writer, pool, prompt

from icl_plugins import ManyShotPrompt, Pool, Template
from icl_plugins.errors import DataError, SettingError, TargetError, TemplateError, TooLongError
from icl_plugins.evaluation.answers import item_choices, label_choices
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import Answer, ScoringTarget, Target
from icl_plugins.progress import progress_to
from icl_plugins.proxy.model import Proxy

LAYOUTS = ["turns", "single", "json"]
MISTAKEN = frozenset({1, 7, 11})


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        yield store


@dataclass
class Says(Writer):
    """Writes the same to every question."""

    text: object = ""

    def says(self, row):
        return self.text


def test_the_small_targets_are_targets():
    assert isinstance(Writer(), Target) and not isinstance(Writer(), ScoringTarget)
    assert isinstance(Scorer(), ScoringTarget)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [Writer, Scorer])
def test_predictions_are_what_the_target_says_of_each_item(kind, layout):
    target = kind(layout=layout, mistaken=MISTAKEN)
    found = evaluate(prompt(), pool(150), target, choices=label_choices(pool(9)))
    assert found.golds == tuple(LABELS[row % 3] for row in range(150))
    assert found.predictions == tuple(target.says(row) for row in range(150))
    assert found.values == tuple(float(row not in MISTAKEN) for row in range(150))
    assert found.value == 147 / 150
    assert (found.target, found.prompt, found.metric) == (kind().name, prompt().fingerprint, "accuracy")
    assert sorted(target.asked) == list(range(150))


@pytest.mark.parametrize(
    ("layout", "expected"), [("single", " card_arrival"), ("turns", "card_arrival"), ("json", "card_arrival")]
)
@pytest.mark.parametrize("given", ["card_arrival", " card_arrival"])
def test_choices_go_to_the_target_as_they_continue_the_request(layout, expected, given):
    target = Scorer(layout=layout)
    evaluate(prompt(), pool(3), target, choices=[given, "exchange_rate", "lost_phone"])
    assert {choices[0] for choices in target.seen} == {expected}


def test_a_choice_that_goes_on_where_another_ends_can_win():
    """Whatever a model knows, p(" order") is at least p(" order_status"): only their ends tell them apart."""
    labels = ("order", "order_status", "rate")

    @dataclass
    class Knowing(Scorer):
        def scores(self, row, own):
            written = f" {labels[row % 3]}\n\nQuery:"
            return tuple(-0.1 if written.startswith(choice) else -5.0 for choice in own)

    items = Pool.from_records([{"text": f"text {i}", "label": labels[i % 3]} for i in range(9)], TEMPLATE)
    assert evaluate(prompt(), items, Knowing(layout="single"), choices=labels).value == 1


@pytest.mark.parametrize("layout", ["single", "turns"])
def test_only_choices_that_begin_alike_get_an_end(layout):
    seen = {}
    for choices in [("rate", "order", "order_status"), ("rate", "reorder", "order")]:
        target = Scorer(layout=layout)
        with suppress(DataError):
            evaluate(prompt(), pool(3), target, choices=[*choices, *LABELS])
        seen[choices[1]] = target.seen[0][:3]
    if layout == "single":
        assert seen == {
            "order": (" rate\n\n", " order\n\n", " order_status\n\n"),
            "reorder": (" rate", " reorder", " order"),
        }
    else:
        assert seen["order"] == ("rate", "order", "order_status")


def test_ties_go_to_the_first_choice():
    @dataclass
    class Undecided(Scorer):
        def scores(self, row, own):
            return (-1.0,) * len(own)

    found = evaluate(prompt(), pool(6), Undecided(), choices=LABELS)
    assert set(found.predictions) == {LABELS[0]}


QUIZ = Template("{question} {number}\n{choices}\nAnswer:", " {answer:letter}")


def quiz(count, start=0):
    records = [
        {"question": "Which?", "number": row, "choices": ["x", "y", "z"][: 2 + row % 2], "answer": row % 2}
        for row in range(start, start + count)
    ]
    return Pool.from_records(records, QUIZ)


def quiz_prompt():
    shots = quiz(3, 100)
    return ManyShotPrompt(QUIZ, tuple(zip(shots.questions, shots.answers, strict=True)), shots.examples)


@pytest.mark.parametrize("layout", ["single", "turns"])
def test_each_item_may_have_choices_of_its_own(layout):
    @dataclass
    class Last(Scorer):
        def scores(self, row, own):
            return tuple(range(-len(own), 0))

    target, items = Last(layout=layout), quiz(6)
    found = evaluate(quiz_prompt(), items, target, choices=item_choices(items))
    assert found.predictions == ("B", "C") * 3
    space = " " if layout == "single" else ""
    assert target.seen == [tuple(space + letter for letter in "ABC"[: 2 + row % 2]) for row in range(6)]


class Echo(Writer):
    """Writes a number with its working, and what a model that continues text adds."""

    def says(self, row):
        return f"{row} + {row} is\n#### {2 * row}.0{TEMPLATE.separator}Query: question number 5\nIntent: 10"


def test_free_text_is_read_by_the_metric_up_to_the_separator():
    template = Template("Double {number}:", " {answer}")
    items = Pool.from_records([{"number": n, "answer": f"so\n#### {2 * n}"} for n in range(5)], template)
    shown = ManyShotPrompt(template, (("Double 50:", " #### 100"),), ({},))
    found = evaluate(shown, items, Echo(layout="single"), metric="final_number", max_tokens=40)
    assert found.golds == found.predictions == ("0", "2", "4", "6", "8")
    # an answer in chat has no separator: all of it is the answer
    assert evaluate(shown, items, Echo(), metric="final_number").predictions == found.predictions
    exact = evaluate(shown, items, Echo(layout="single"), metric="exact_match")
    assert exact.predictions[1] == "1 + 1 is\n#### 2.0" and exact.value == 0.0


def test_the_target_is_told_how_long_answers_may_be():
    target = Writer()
    evaluate(prompt(), pool(3), target, metric="exact_match", max_tokens=7)
    assert set(target.calls) == {7}


def test_a_metric_of_ones_own_measures_predictions():
    def same_start(prediction, gold):
        return float(prediction[:1] == gold[:1])

    found = evaluate(prompt(), pool(6), Says(text="cards"), metric=same_start)
    assert (found.metric, found.value) == ("same_start", 2 / 6)


@pytest.mark.parametrize("text", ["", "  \n", "no idea", "card_arrival or lost_phone"])
def test_an_answer_that_cannot_be_read_counts_as_wrong_and_is_counted(text):
    found = evaluate(prompt(), pool(6), Says(text=text), choices=LABELS)
    assert (found.predictions, found.unparsable, found.errors, found.value) == ((None,) * 6, 6, {}, 0.0)


@pytest.mark.parametrize("kind", [Writer, Scorer])
def test_a_failed_request_counts_as_wrong_and_stands_in_the_errors(kind):
    found = evaluate(prompt(), pool(6), kind(failing=frozenset({4})), choices=LABELS)
    assert found.errors == {4: "503 busy"}
    assert (found.predictions[4], found.values[4], found.unparsable) == (None, 0.0, 0)
    assert found.value == 5 / 6


def test_if_every_request_failed_the_first_reason_is_told(store):
    target = Writer(failing=frozenset(range(6)))
    with pytest.raises(TargetError, match="all 6 requests failed, the first with: 503 busy"):
        evaluate(prompt(), pool(6), target, choices=LABELS, store=store)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ((-1.0,), "1 log-probabilities for 3 choices"),
        (None, "0 log-probabilities for 3 choices"),
        ((-1.0, float("nan"), -2.0), "not finite"),
        ((float("-inf"),) * 3, "not finite"),
    ],
)
def test_scores_that_are_not_what_was_asked_for_are_an_error_of_the_item(scores, fault, store):
    @dataclass
    class Broken(Scorer):
        def scores(self, row, own):
            return scores if row == 2 else super().scores(row, own)

    found = evaluate(prompt(), pool(6), Broken(), choices=LABELS, store=store)
    assert list(found.errors) == [2] and fault in found.errors[2]


@pytest.mark.parametrize("text", [None, ["card_arrival"], {"text": "x"}, "\ud800"])
def test_an_answer_that_is_no_text_is_an_error_of_the_item(text, store):
    @dataclass
    class Broken(Writer):
        def says(self, row):
            return text if row == 2 else super().says(row)

    found = evaluate(prompt(), pool(6), Broken(), choices=LABELS, store=store)
    assert list(found.errors) == [2] and "text" in found.errors[2]


def test_a_target_that_tells_answers_only_at_the_end_is_read_too(store):
    @dataclass
    class Silent(Writer):
        def generate(self, requests, *, max_tokens, on_answer=None):
            return super().generate(requests, max_tokens=max_tokens)

    target = Silent()
    for reused in (0, 6):
        assert evaluate(prompt(), pool(6), target, choices=LABELS, store=store).reused == reused
    assert len(target.asked) == 6


def test_too_long_requests_are_named_as_items():
    @dataclass
    class Short(Writer):
        def generate(self, requests, *, max_tokens, on_answer=None):
            raise TooLongError("request 1 has 99 tokens", expected="at most 50", fix="shorten it")

    with pytest.raises(TooLongError, match="request 1 has 99 tokens, where the requests are item 0, item 1"):
        evaluate(prompt(), pool(3), Short(), choices=LABELS)


def overlapping():
    return Pool.from_records(
        [{"text": f"  Question  NUMBER {row}", "label": LABELS[row % 3]} for row in (2, 1003)], TEMPLATE
    )


def test_an_item_that_is_a_demonstration_is_refused_before_anything_is_asked():
    target = Writer()
    with pytest.raises(DataError, match="1 items that are also demonstrations: item 1"):
        evaluate(prompt(), overlapping(), target, choices=LABELS)
    assert not target.asked


def test_or_left_out_and_counted():
    found = evaluate(prompt(), overlapping(), Writer(), choices=LABELS, on_overlap="drop")
    assert (found.dropped, found.dropped_rows, len(found.golds)) == (1, (1,), 1)
    with pytest.raises(DataError, match="2 items"):
        evaluate(prompt(), pool(2, 1000), Writer(), choices=LABELS, on_overlap="drop")


def test_choices_of_dropped_items_are_left_out_with_them():
    items = quiz(4, 99)  # 100, 101 and 102 are shown
    found = evaluate(quiz_prompt(), items, Scorer(), choices=item_choices(items), on_overlap="drop")
    assert found.dropped_rows == (1, 2, 3)


def test_golds_that_are_no_choice_are_counted():
    found = evaluate(prompt(), pool(6), Writer(), choices=LABELS[:2])
    assert (found.unreachable, found.value) == (2, 4 / 6)
    with pytest.raises(DataError, match="no item has one of its choices as answer, such as 'card_arrival'"):
        evaluate(prompt(), pool(6), Writer(), choices=["Card arrival", "Lost phone"])


def test_usage_is_summed_and_an_equal_question_is_asked_and_paid_once():
    items = pool(4).subset([0, 1, 2, 3, 1, 1])
    target = Writer()
    found = evaluate(prompt(), items, target, choices=LABELS)
    assert len(target.asked) == 4 and len(found.predictions) == 6
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (400, 360, 8)
    assert (found.cost, found.seconds) == (1.0, 2.0)


@pytest.mark.parametrize("uncounted", [range(6), range(1)])
def test_what_nobody_counted_is_not_zero_nor_the_sum_of_a_part(uncounted):
    @dataclass
    class Uncounted(Writer):
        def _each(self, *args):
            given = enumerate(super()._each(*args))
            return [Answer(text=one.text) if row in uncounted else one for row, one in given]

        def generate(self, requests, *, max_tokens, on_answer=None):
            return super().generate(requests, max_tokens=max_tokens)

    found = evaluate(prompt(), pool(6), Uncounted(), choices=LABELS)
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens, found.cost) == (None,) * 4


def test_progress_is_told_for_every_answer():
    told = []
    with progress_to(lambda *step: told.append(step)):
        evaluate(prompt(), pool(5), Writer(), choices=LABELS)
    assert told == [("answers", done, 5) for done in range(1, 6)]


def same_but_reused(one, other):
    return vars(one) | {"reused": 0} == vars(other) | {"reused": 0}


@pytest.mark.parametrize("kind", [Writer, Scorer])
def test_a_repeated_run_asks_nothing_and_gives_the_same(kind, store):
    target = kind(mistaken=MISTAKEN)
    first = evaluate(prompt(), pool(150), target, choices=LABELS, store=store)
    again = evaluate(prompt(), pool(150), target, choices=LABELS, store=store)
    assert len(target.asked) == 150
    assert same_but_reused(first, again) and (first.reused, again.reused) == (0, 150)
    assert same_but_reused(first, evaluate(prompt(), pool(150), kind(mistaken=MISTAKEN), choices=LABELS))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": prompt(instruction="Which intent?")},
        {"target": Writer(name="another")},
        {"max_tokens": 3},
        {"target": Scorer()},
    ],
)
def test_another_prompt_target_or_setting_is_asked_anew(change, store):
    given = {"prompt": prompt(), "target": Writer(), "max_tokens": 9}
    evaluate(items=pool(6), choices=LABELS, store=store, **given)
    assert evaluate(items=pool(6), choices=LABELS, store=store, **{**given, **change}).reused == 0
    assert evaluate(items=pool(9), choices=LABELS, store=store, **given).reused == 6


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt, TargetError("no server", expected="one", fix="start it")]
)
def test_a_stopped_run_goes_on_where_it_stopped(stop, store):
    def before(row):
        if len(target.asked) == 70:
            raise stop

    target = Writer(before=before)
    with pytest.raises(stop if isinstance(stop, type) else TargetError):
        evaluate(prompt(), pool(150), target, choices=LABELS, store=store)
    rest = Writer()
    found = evaluate(prompt(), pool(150), rest, choices=LABELS, store=store)
    assert (len(rest.asked), found.reused, found.value) == (80, 70, 1.0)


def test_only_failures_are_asked_again(store):
    evaluate(prompt(), pool(6), Writer(failing=frozenset({2, 3})), choices=LABELS, store=store)
    target = Writer()
    found = evaluate(prompt(), pool(6), target, choices=LABELS, store=store)
    assert (sorted(target.asked), found.errors, found.value) == ([2, 3], {}, 1.0)


def test_two_runs_on_one_store_share_the_work(tmp_path):
    """Batch by batch in step: in one order all would be asked twice, in random order they seldom meet."""
    count, step, targets = 64 * 12, threading.Barrier(2), (Writer(), Writer())

    def run(target):
        def before(row):
            if len(target.asked) % 64 == 0:
                with suppress(threading.BrokenBarrierError):
                    step.wait(20)

        target.before = before
        with ResultStore(tmp_path / "results.sqlite") as store:
            evaluate(prompt(), pool(count), target, choices=LABELS, store=store)
        step.abort()  # the other goes on alone

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [row for target in targets for row in target.asked]
    assert set(asked) == set(range(count))
    assert len(asked) < 1.7 * count


FREE = ("N/A", "", "[MASK]")


@dataclass
class Biased(Scorer):
    """Sees a little of the question; likes some choices whatever it reads."""

    def score(self, requests, choices, *, on_answer=None):
        answers = []
        for index, (messages, own) in enumerate(zip(requests, choices, strict=True)):
            question = messages[-1]["content"]
            self.asked.append(question)
            answers.append(Answer(scores=self.likes(question, own)))
            if on_answer is not None:
                on_answer(index, answers[-1])
        return answers

    def likes(self, question, own):
        if "[MASK]" in question or "N/A" in question:
            return (-9.0, -9.0, -6.0)
        if not any(c.isdigit() for c in question):
            return (2.0, -1.0, -1.0)
        return tuple(
            bias + 0.5 * (at == int(question.split()[-2]) % 3) for at, bias in enumerate((1.0, -1.1, 1.5))
        )


def test_calibration_takes_off_what_the_choices_have_without_content(store):
    items, target = pool(9), Biased()
    plain = evaluate(prompt(), items, target, choices=LABELS)
    found = evaluate(prompt(), items, target, choices=LABELS, calibrate=True, store=store)
    free = [np.exp(target.likes(TEMPLATE.render_question({"text": text}), LABELS)) for text in FREE]
    prior = np.mean([one / one.sum() for one in free], axis=0)
    scores = [np.array(target.likes(question, LABELS)) - np.log(prior) for question in items.questions]
    assert found.predictions == tuple(LABELS[np.argmax(one)] for one in scores)
    assert found.value == 1.0 > plain.value
    asked = len(target.asked)
    assert evaluate(prompt(), items, target, choices=LABELS, calibrate=True, store=store) != plain
    assert len(target.asked) == asked


def test_a_choice_that_is_impossible_with_and_without_content_is_not_chosen():
    @dataclass
    class Sure(Biased):
        def likes(self, question, own):
            return (-np.inf, -1.0, -2.0 + any(c.isdigit() for c in question))

    assert evaluate(prompt(), pool(2), Sure(), choices=LABELS, calibrate=True).predictions == (LABELS[2],) * 2


def test_calibration_of_choices_of_its_own_is_done_for_each_list():
    target, items = Scorer(), quiz(4)
    target.scores = lambda row, own: (-1.0,) * len(own)
    target._each = lambda requests, answer, choices, on_answer: [
        Answer(scores=(-1.0,) * len(own)) for own in choices
    ]
    evaluate(quiz_prompt(), items, target, choices=item_choices(items), calibrate=True)
    assert len(target.seen) == 4 + 2 * len(FREE)


def test_calibration_without_an_answer_to_the_content_free_input_is_told():
    class Refusing(Biased):
        def likes(self, question, own):
            return super().likes(question, own) if "number" in question else (float("nan"),) * 3

    with pytest.raises(TargetError, match="no log-probabilities for the content-free input 'N/A'"):
        evaluate(prompt(), pool(6), Refusing(), choices=LABELS, calibrate=True)


def test_calibration_of_a_question_that_reads_into_a_field_is_refused_before_anything_is_asked():
    template = Template("{meta.text}?", " {label}")
    items = Pool.from_records(
        [{"meta": {"text": f"is {row}"}, "label": LABELS[0]} for row in (1, 2)], template
    )
    target = Scorer()
    with pytest.raises(TemplateError, match="str has no fields"):
        evaluate(ManyShotPrompt(template, (), ()), items, target, choices=LABELS, calibrate=True)
    assert not target.asked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "acuracy"}, "normalised_exact_match"),
        ({"choices": None}, "accuracy without choices"),
        ({"choices": "card_arrival"}, "a list of texts"),
        ({"choices": []}, "a list of texts"),
        ({"choices": [["a"], ["b"]]}, "for 6 items"),
        ({"choices": ["a", ["b"]]}, "a list of texts"),
        ({"choices": [[]] * 6}, "a list of texts"),
        ({"choices": [1, 2]}, "a list of texts"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": True}, "max_tokens=True"),
        ({"on_overlap": "keep"}, "on_overlap='keep'"),
        ({"calibrate": True}, "calibrate without log-probabilities"),
        ({"items": pool(6, template=Template("{text}", "{label}"))}, "another template"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_asked(settings, message):
    target = Writer()
    given = {"prompt": prompt(), "items": pool(6), "target": target, "choices": LABELS, **settings}
    with pytest.raises(SettingError, match=message):
        evaluate(**given)
    assert not target.asked


def test_items_whose_own_answer_the_metric_cannot_read_are_named():
    with pytest.raises(DataError, match="6 items whose own answer final_number cannot read: item 0, item 1"):
        evaluate(prompt(), pool(6), Writer(), metric="final_number")


def test_a_local_model_chooses_what_is_likeliest_in_the_whole_text(make_model, tokenizer):
    """Reference: the whole text of every choice through the model, none of it shared."""
    proxy = Proxy.from_model(make_model(max_position_embeddings=2048), tokenizer, name="tiny")
    items, shown, choices = pool(8), prompt(4), label_choices(pool(9))
    found = evaluate(shown, items, LocalTarget(proxy), choices=choices)
    texts = tuple(shown.text(example) for example in items for _ in choices)
    losses = proxy.answer_losses(SimpleNamespace(questions=texts, answers=choices * len(items)))
    likeliest = losses.reshape(len(items), len(choices)).argmin(axis=1)
    assert found.predictions == tuple(choices[at].strip() for at in likeliest.tolist())
