"""What HybridFewShot promises: fixed demonstrations, the nearest of each call behind them, nothing shared."""

import asyncio
import copy
import json
import threading

import cloudpickle
import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM
from dspy_icl import BM25FewShot, HybridFewShot, RandomFewShot
from dspy_programs import Classify, OneStage, TwoStages, knowing, make_trainset, right, texts

from icl_plugins import Proxy, Random
from icl_plugins.errors import BudgetError, DataError, SettingError

WORDS = [
    "apple",
    "banana",
    "cherry",
    "damson",
    "elder",
    "fig",
    "grape",
    "hazel",
    "iris",
    "juniper",
    "kiwi",
    "lemon",
    "mango",
    "nut",
    "olive",
    "pear",
]
TRAIN = [
    dspy.Example(text=f"about {word} number {n}", area=("card", "rate", "phone")[n % 3]).with_inputs("text")
    for n, word in enumerate(WORDS)
]
QUERIES = [f"tell me of {word} {end}" for end in ("now", "please") for word in WORDS]


def says_card(**fields):
    return DummyLM([{"area": "card", **fields}] * 999)


def asked(lm):
    """What an LM was asked: query -> messages."""
    return {query_of(call["messages"]): call["messages"] for call in lm.history}


def query_of(messages):
    return messages[-1]["content"].split("]]\n")[1].split("\n")[0]


def compiled(student=None, trainset=TRAIN, **settings):
    optimizer = HybridFewShot(Random(), **{"k": 5, "m": 3, **settings})
    return optimizer.compile(OneStage() if student is None else student, trainset=trainset)


def expected(program, query):
    """The messages of one call, by the adapter, from the demonstrations of that call."""
    predictor = program.predictors()[0]
    return dspy.ChatAdapter().format(predictor.signature, predictor.demos_for(text=query), {"text": query})


# --- what a call sends --------------------------------------------------------------------------------------


def test_every_call_begins_with_the_same_messages_and_ends_with_its_nearest():
    program, lm = compiled(), says_card()
    with dspy.context(lm=lm):
        for query in QUERIES:
            program(text=query)
    first = asked(lm)[QUERIES[0]]
    for query, messages in asked(lm).items():
        assert messages[: 1 + 2 * 5] == first[: 1 + 2 * 5] and len(messages) == 1 + 2 * 8 + 1
        assert messages == expected(program, query)
        word = query.split()[3]
        if not any(word in text for text in texts(program.predictor.demos)):
            assert word in messages[-3]["content"]
    assert len({json.dumps(messages[11:-1]) for messages in asked(lm).values()}) > 5


def test_no_demonstration_is_shown_twice_also_where_the_trainset_repeats_itself():
    program = compiled(trainset=[*TRAIN, *TRAIN], k=6)
    for query in QUERIES:
        shown = texts(program.predictor.demos_for(text=query))
        assert len(set(shown[6:])) == 3 and not set(shown[6:]) & set(shown[:6])


def test_the_fixed_ones_are_those_that_the_selector_fixes_and_reports_tell_them():
    program = compiled()
    report = program.selection_reports["predictor"]
    assert texts(program.predictor.demos) == [TRAIN[row].text for row in report["rows"]]
    fixed = RandomFewShot(k=5).compile(OneStage(), trainset=TRAIN)
    assert texts(fixed.predictor.demos) == texts(program.predictor.demos)
    assert json.dumps(program.selection_reports)


def test_the_proxy_finds_the_nearest_too():
    program = compiled(nearest="proxy", proxy=Proxy.load("micro"))
    left = [e.text for e in TRAIN if e.text not in texts(program.predictor.demos)]
    for text in left:
        assert texts(program.predictor.demos_for(text=text))[-1] == text


def test_a_token_budget_is_for_both():
    proxy = Proxy.load("micro")
    program = compiled(k=None, max_tokens=500, nearest="bm25")
    for query in QUERIES:
        turns = [m["content"] for m in expected(program, query)[1:-1]]
        joined = "".join(
            f"{ask}\n\n{answer}\n\n" for ask, answer in zip(turns[::2], turns[1::2], strict=True)
        )
        assert proxy.count_tokens([joined])[0] <= 500 and 6 < len(turns) < 2 * len(TRAIN)


def test_leave_out_same_keeps_an_example_from_its_own_answer():
    program = compiled(leave_out_same=True)
    for example in TRAIN:
        assert example.text not in texts(program.predictor.demos_for(text=example.text)[5:])


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=repr)
def test_any_adapter_will_do(adapter):
    with dspy.context(adapter=adapter):
        program = compiled()
        left = next(e for e in TRAIN if e.text not in texts(program.predictor.demos))
        assert texts(program.predictor.demos_for(text=left.text))[-1] == left.text


def test_chain_of_thought_a_bare_predictor_and_two_stages():
    lm = says_card(reasoning="so", topic="t")
    with dspy.context(lm=lm):
        thinking = compiled(dspy.ChainOfThought(Classify))
        assert len(thinking(text="of a kiwi").reasoning) and len(asked(lm)["of a kiwi"]) == 1 + 2 * 8 + 1
        bare = compiled(dspy.Predict(Classify))
        assert bare(text="kiwi").area == "card" and len(bare.demos_for(text="kiwi")) == 8
        two = compiled(TwoStages(), trainset=[e.copy(topic="t") for e in TRAIN])
        assert two(text="kiwi").area == "card" and len(asked(lm)["kiwi"]) == 1 + 2 * 8 + 1


def test_the_nearest_come_from_runs_where_the_program_was_run():
    trainset = make_trainset()
    with dspy.context(lm=knowing(trainset, topic="t", reasoning="r")):
        program = HybridFewShot(Random(), k=4, m=2, metric=right).compile(TwoStages(), trainset=trainset)
        nearest = program.area.demos_for(text=trainset[7].text, topic="t")[4:]
    assert len(nearest) == 2 and all("topic" in demo for demo in nearest)


def test_a_predictor_class_of_ones_own_keeps_its_ways():
    class Shouting(dspy.Predict):
        def forward(self, **kwargs):
            return super().forward(**{**kwargs, "text": kwargs["text"].upper()})

    program = compiled(Shouting(Classify))
    lm = says_card()
    with dspy.context(lm=lm):
        program(text="kiwi")
    assert isinstance(program, Shouting) and len(asked(lm)["KIWI"]) == 1 + 2 * 8 + 1
    assert len(copy.deepcopy(program).demos_for(text="kiwi")) == 8


# --- threads and tasks --------------------------------------------------------------------------------------


def test_32_calls_in_threads_each_send_their_own_and_change_nothing():
    program, lm = compiled(), says_card()
    state = json.dumps(program.dump_state())
    with dspy.context(lm=lm):
        calls = [(program, {"text": query}) for query in QUERIES]
        dspy.Parallel(num_threads=16, disable_progress_bar=True)(calls)
    assert len(QUERIES) == 32
    assert asked(lm) == {query: expected(program, query) for query in QUERIES}
    assert json.dumps(program.dump_state()) == state and len(program.predictor.demos) == 5


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
async def test_32_tasks_each_send_their_own(nearest):
    program, lm = compiled(nearest=nearest), says_card()
    with dspy.context(lm=lm):
        await asyncio.gather(*(program.predictor.acall(text=query) for query in QUERIES))
    assert asked(lm) == {query: expected(program, query) for query in QUERIES}


async def test_the_search_is_off_the_event_loop():
    threads = set()

    class Watched:
        def ranker(self, pool, rows):
            return lambda question: threads.add(threading.current_thread()) or rows

    program = compiled(nearest=Watched())
    with dspy.context(lm=says_card()):
        await program.predictor.acall(text="kiwi")
    assert threads and threading.current_thread() not in threads


def test_demonstrations_of_the_call_itself_win():
    program, lm = compiled(), says_card()
    with dspy.context(lm=lm):
        program(text="kiwi", demos=[])
    assert len(asked(lm)["kiwi"]) == 2


# --- copies and files ---------------------------------------------------------------------------------------


def test_the_student_and_the_trainset_are_not_changed_and_demonstrations_are_copies():
    student, trainset = OneStage(), copy.deepcopy(TRAIN)
    program = compiled(student, trainset)
    program.predictor.demos_for(text="kiwi")[-1].text = "changed"
    program.predictor.demos[0].text = "changed"
    assert type(student.predictor) is dspy.Predict and student.predictor.demos == []
    assert trainset == TRAIN and "changed" not in texts(program.predictor.demos_for(text="kiwi")[1:])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda program: program.deepcopy()], ids=["copy", "dspy"])
def test_copies_send_the_same_share_the_index_and_go_their_own_way(copied):
    program = compiled(nearest="proxy")
    twin = copied(program)
    assert expected(twin, "kiwi") == expected(program, "kiwi")
    assert twin.predictor.nearest is program.predictor.nearest
    twin.predictor.demos = []
    assert len(twin.predictor.demos_for(text="kiwi")) == 3 and len(program.predictor.demos) == 5


def test_a_reset_predictor_has_none_of_it():
    fresh = compiled().reset_copy()
    assert fresh.predictor.demos_for(text="kiwi") == [] and fresh.predictor.nearest is None
    assert len(compiled(fresh).predictor.demos_for(text="kiwi")) == 8
    plain = BM25FewShot(k=2).compile(compiled(), trainset=TRAIN)
    assert len(plain.predictor.demos_for(text="kiwi")) == 2


def test_a_saved_state_has_the_fixed_ones_and_attach_gives_the_nearest_back(tmp_path):
    program = compiled()
    program.save(tmp_path / "program.json")
    loaded = OneStage()
    loaded.load(tmp_path / "program.json")
    assert texts(loaded.predictor.demos) == texts(program.predictor.demos)
    again = HybridFewShot(Random(), m=3).attach(loaded, trainset=TRAIN)
    assert type(loaded.predictor) is dspy.Predict
    assert [expected(again, query) for query in QUERIES] == [expected(program, query) for query in QUERIES]


def test_a_state_loaded_into_a_compiled_program_keeps_its_nearest_apart_from_the_new_fixed_ones(tmp_path):
    other = compiled(k=5, trainset=TRAIN[8:])
    other.save(tmp_path / "other.json")
    program = compiled()
    program.load(tmp_path / "other.json")
    for query in QUERIES:
        shown = texts(program.predictor.demos_for(text=query))
        assert shown[:5] == texts(other.predictor.demos) and len(set(shown)) == 8


def test_a_whole_program_is_saved_with_its_nearest(tmp_path):
    program = compiled(nearest="proxy")
    copied = cloudpickle.loads(cloudpickle.dumps(program))
    assert [expected(copied, query) for query in QUERIES] == [expected(program, query) for query in QUERIES]
    program.save(tmp_path / "whole", save_program=True)
    loaded = dspy.load(tmp_path / "whole", allow_pickle=True)
    assert expected(loaded, "kiwi") == expected(program, "kiwi")


def test_compile_callbacks_hear_start_and_end_once():
    class Listener(BaseCallback):
        heard = 0

        def on_compile_start(self, call_id, instance, inputs):
            self.heard += 1

    listener = Listener()
    with dspy.context(callbacks=[listener]):
        compiled()
    assert listener.heard == 1


def test_the_score_on_a_valset_is_that_of_the_whole():
    lm = knowing(TRAIN)
    with dspy.context(lm=lm):
        program = HybridFewShot(Random(), k=3, m=2, metric=right).compile(
            OneStage(), trainset=TRAIN[:12], valset=TRAIN[12:]
        )
    assert program.candidate_programs[0]["score"] == 100.0
    assert all(len(call["messages"]) == 1 + 2 * 5 + 1 for call in lm.history)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"m": 0}, {"m": 1.5}, {"nearest": ""}, {"nearest": 5}, {"k": 0}, {"seed": -1}, {"epochs": 3}],
    ids=str,
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        HybridFewShot(Random(), **settings)


def test_a_trainset_too_small_or_empty_and_a_budget_too_small_are_refused():
    assert len(compiled(trainset=TRAIN[:4]).predictor.demos) == 1
    with pytest.raises(BudgetError, match="m=3 from 3 examples"):
        compiled(trainset=TRAIN[:3])
    with pytest.raises(DataError, match="empty trainset"):
        compiled(trainset=[])
    with pytest.raises(BudgetError, match="nearest"):
        compiled(k=None, max_tokens=60)
