"""Rows are drawn as the stage says, the same for the same seed and number."""

from collections import Counter

import numpy as np
import pytest
from tiny_models import tiny_tokenizer
from tuning_tools import NAMES, OTHER, PLAIN, WORDS, make_drawer, make_task, rngs

from icl_plugins.proxy.encoding import TextEncoder
from icl_plugins.tuning import Stage, Weighting
from icl_plugins.tuning.rows import Batches

TOKENIZER = tiny_tokenizer()
ENCODER = TextEncoder(TOKENIZER)
INVENTED = tuple(f"word{at}" for at in range(20))


def drawn(tasks, count=200, **given):
    drawer = make_drawer(ENCODER, tasks, **given)
    return [sequence for rng in rngs(count) for sequence in drawer.row(rng)]


def texts(sequence):
    """The examples of a sequence, as text: question and answer."""
    parts = TOKENIZER.decode(sequence.ids[1:]).split("\n\n")
    return parts[:-1]


def labels(sequence):
    return [TOKENIZER.decode(sequence.ids[start:stop]).strip() for start, stop in sequence.answers]


def test_a_row_is_a_function_of_seed_and_number(task):
    def batches(seed, **more):
        drawer = make_drawer(ENCODER, [task], steps=6)
        return Batches([drawer], Weighting(), seed, per_step=2, **more)

    first, again, later = batches(3), batches(3), batches(3, start=4)
    assert (len(first), len(later)) == (12, 4)
    seen = set()
    for number in reversed(range(12)):
        ids = first[number]["input_ids"]
        assert ids.equal(again[number]["input_ids"])
        seen.add(tuple(ids.flatten().tolist()))
        if number >= 8:
            assert ids.equal(later[number - 8]["input_ids"])
    assert len(seen) == 12
    assert not first[0]["input_ids"].equal(batches(4)[0]["input_ids"])


def test_stages_follow_each_other(task):
    stages = [
        make_drawer(ENCODER, [task], steps=steps, context=context) for steps, context in ((2, 40), (1, 96))
    ]
    batches = Batches(stages, Weighting(), 0, per_step=2)
    wide = [batches[at]["input_ids"].shape[1] > 40 for at in range(len(batches))]
    assert wide == [False] * 4 + [True] * 2


def test_no_example_is_twice_in_a_sequence_and_every_visit_has_another_order(task):
    orders = set()
    known = {text.strip() for text in task.pool.texts}
    for sequence in drawn([task], 40, shots="full", pack=False):
        shown = texts(sequence)
        assert len(set(shown)) == len(shown) == len(sequence.answers)
        assert set(shown) <= known
        orders.add(tuple(shown))
    assert len(orders) == 40


def test_rows_hold_whole_examples_within_the_context(task):
    drawer = make_drawer(ENCODER, [task, make_task("others", template=OTHER)])
    packed = 0
    for rng in rngs(60):
        row = drawer.row(rng)
        packed += len(row) > 1
        assert sum(len(one.ids) for one in row) <= 96
        for one in row:
            assert one.ends[-1] == len(one.ids)
            assert TOKENIZER.decode(one.ids).endswith("\n")
            assert one.ids[0] == TOKENIZER.bos_token_id
    assert packed > 30


def test_without_a_bos_there_is_none(own_tokenizer, task):
    from tokenizers import processors

    own_tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    drawer = make_drawer(TextEncoder(own_tokenizer), [task])
    row = drawer.row(rngs(1)[0])
    assert all(own_tokenizer.bos_token_id not in one.ids for one in row)
    assert own_tokenizer.decode(row[0].ids).startswith("Query:")


@pytest.mark.parametrize("shots", ["uniform", "log", "full"])
def test_the_number_of_shots_is_drawn_as_the_stage_says(shots):
    task = make_task(template=OTHER, words=["a"])  # short, of about equal length
    counts = np.array([len(one.answers) for one in drawn([task], 600, shots=shots, pack=False)])
    most = counts.max()
    assert most >= 6
    if shots == "full":
        assert counts.min() >= most - 3
        return
    assert counts.min() == 1
    half = (counts <= most / 2).mean()
    low, high = {"uniform": (0.4, 0.65), "log": (0.66, 0.9)}[shots]
    assert low < half < high


@pytest.mark.parametrize(("temperature", "share"), [(0.0, 0.5), (0.5, 2 / 3), (1.0, 0.8)])
def test_tasks_are_drawn_by_their_size_to_the_temperature(temperature, share):
    tasks = [make_task("large", 96), make_task("small", 24)]
    seen = Counter(one.task for one in drawn(tasks, 600, temperature=temperature, pack=False, shots="log"))
    assert seen["large"] / 600 == pytest.approx(share, abs=0.06)


def test_names_and_kinds_are_drawn_by_their_shares():
    tasks = [make_task("a", 40), make_task("b", 10, kind="small"), make_task("c", 40, kind="small")]
    stage = Stage(tasks={"a": 3, "small": 1}, temperature=0.5)
    np.testing.assert_allclose(stage.odds([*tasks, make_task("d")]), [3 / 4, 1 / 12, 1 / 6, 0])


def test_shares_of_zero_shot_and_plain_text(task):
    sequences = drawn([task], 600, text=PLAIN, zero_shot=0.3, plain=0.2, shots="full", pack=False)
    plain = [one for one in sequences if not one.answers]
    assert len(plain) / 600 == pytest.approx(0.2, abs=0.05)
    assert sum(len(one.answers) == 1 for one in sequences) / 600 == pytest.approx(0.3, abs=0.06)
    for one in plain[:20]:
        text = TOKENIZER.decode(one.ids[1:])
        assert one.ids[0] == TOKENIZER.bos_token_id
        assert any(text in whole for whole in PLAIN)
        assert text.split()[0] in " ".join(PLAIN).split()  # begins with a whole word


def test_so_many_classes_are_shown_about_equally_often():
    sizes = [40, 20, 10, 30]
    records = [(name, at) for name, size in zip(NAMES, sizes, strict=True) for at in range(size)]
    task = make_task(size=4)
    from icl_plugins import Pool
    from icl_plugins.tuning import Task

    pool = Pool.from_records(
        [{"text": f"{WORDS[at % 9]} {at}", "label": name} for name, at in records], OTHER
    )
    task = Task("uneven", pool, classes=True)
    sequences = drawn([task], 300, classes=(2, 3), shots="full", pack=False, context=60)
    shown = [Counter(labels(one)) for one in sequences]
    assert {len(one) for one in shown} <= {1, 2, 3}
    assert {len(one) for one in shown} >= {2, 3}
    total = sum(shown, Counter())
    for name in NAMES:
        assert total[name] / sum(total.values()) == pytest.approx(0.25, abs=0.07)


def test_another_name_stands_for_one_class_throughout_a_sequence(task):
    own = {text: label for text, label in zip(task.pool.questions, task.pool.labels, strict=True)}
    ways = Counter()
    for one in drawn([task], 150, words=INVENTED, other_names=1.0, unseen=0.25, shots="full", pack=False):
        names = {}
        for text, shown, factor in zip(texts(one), labels(one), one.factors, strict=True):
            label = own[text[: text.index("Intent:") + len("Intent:")]]
            new = label not in names
            assert names.setdefault(label, shown) == shown
            assert factor == (0.25 if new else 1.0)
        assert len(set(names.values())) == len(names)
        permuted = set(labels(one)) <= set(NAMES)
        ways["permuted" if permuted else "symbols" if len(shown) == 1 else "words"] += 1
    assert min(ways["permuted"], ways["symbols"]) > 8
    assert ways["words"] > 60


def test_an_example_alone_keeps_its_name_and_weight(task):
    for one in drawn([task], 40, words=INVENTED, other_names=1.0, unseen=0.25, zero_shot=1.0):
        assert labels(one)[0] in NAMES and one.factors == (1.0,)


def test_names_stay_where_answers_are_no_classes():
    free = make_task(classes=False, weight=1.5)
    for one in drawn([free], 20, words=INVENTED, other_names=1.0):
        assert set(labels(one)) <= set(NAMES)
        assert set(one.factors) == {1.5}


def test_every_template_of_a_task_is_shown(task):
    both = make_task(templates=(OTHER,))
    starts = Counter("->" in TOKENIZER.decode(one.ids) for one in drawn([both], 60))
    assert min(starts[True], starts[False]) > 15


def test_an_example_that_other_names_make_too_long_keeps_its_own(task):
    longest = max(len(ids) for ids, _ in ENCODER.tokenize([text + "\n\n" for text in task.pool.texts]))
    long = tuple("-".join(WORDS[:4]) + str(at) for at in range(20))
    found = drawn([task], 60, other_names=1.0, context=longest, words=long, pack=False)
    shown = {name for one in found for name in labels(one)}
    assert len(found) == 60 and shown & set(NAMES) and shown - set(NAMES)


def test_packed_tasks_keep_their_shares(task):
    long = make_task("long", 40, words=[word * 3 for word in WORDS])
    found = Counter(one.task for one in drawn([make_task("short", 40), long], 400, shots="log"))
    assert found["long"] / found.total() > 0.44


def test_plain_text_is_read_from_everywhere_with_and_without_spaces(task):
    for text in ("".join(chr(0x4E00 + at) for at in range(4000)), "\n".join(map(str, range(2000)))):
        found = drawn([task], 40, text=(text,), plain=1.0, pack=False)
        assert len({tuple(one.ids[:8]) for one in found}) > 30


def test_long_documents_are_drawn_more_often_than_short_ones(task):
    found = drawn([task], 200, text=("a b " * 30, "x y " * 270), plain=1.0, context=32, pack=False)
    assert 0.8 < np.mean(["x" in TOKENIZER.decode(one.ids) for one in found]) < 0.98
