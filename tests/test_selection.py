import datetime
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import icl_plugins
from icl_plugins import ManyShotPrompt, Pool, Selection, Template
from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.selection import Selector, label_kl

TEMPLATE = Template("Q: {text}\nA:", " {label}")
RECORDS = [{"text": f"text {i}", "label": "aab"[i % 3]} for i in range(9)]
POOL = Pool.from_records(RECORDS, TEMPLATE)
DETAILS = {
    "objective_name": "distance",
    "random_objective": 9.0,
    "tokens": 33,
    "swaps": 2,
    "device": "cpu",
    "skipped": {"too_long": [8]},
    "fingerprints": {"weights": "w"},
}


def make(indices=(4, 0, 2), **changes):
    n = len(indices)
    arguments = {
        "scores": range(n, 0, -1),
        "objective": [1 / (t + 1) for t in range(n)],
        "config": {"seed": 0},
    }
    return Selection(**{"pool": POOL, "indices": indices, **arguments, "details": DETAILS, **changes})


def test_a_selection_keeps_the_order_that_was_chosen():
    selection = make()
    assert selection.examples == (RECORDS[4], RECORDS[0], RECORDS[2])
    assert selection.labels == ("a", "a", "b")
    assert len(selection) == 3


def test_numpy_values_become_pythons_own():
    selection = make(np.array([4, 0, 2]), scores=np.float32([3, 2, 1]), objective=np.zeros(3))
    assert selection.indices == (4, 0, 2)
    assert {type(i) for i in selection.indices} == {int}
    json.dumps([selection.indices, selection.scores, selection.objective, selection.report()])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"indices": ()}, SettingError, "at least one"),
        ({"indices": (1, 1, 2)}, SettingError, r"\[1\] occur more"),
        ({"indices": (1, 2, 9)}, SettingError, "number 9 .*0 to 8"),
        ({"indices": (1, 2, -1)}, SettingError, "number -1 .*0 to 8"),
        ({"indices": (1, 2, 0.0)}, SettingError, "whole numbers"),
        ({"indices": (True, 2, 0)}, SettingError, "whole numbers"),
        ({"scores": (1, 2)}, SettingError, "2 scores"),
        ({"objective": (1, 2)}, SettingError, "2 objective"),
        ({"scores": (1, math.nan, 2)}, NonFiniteError, r"scores .* at \[1\]"),
        ({"objective": (1, 2, math.inf)}, NonFiniteError, r"objective .* at \[2\]"),
        ({"config": {"x": object()}}, SettingError, "config"),
        ({"details": {"x": math.nan}}, SettingError, "details"),
    ],
    ids=str,
)
def test_what_cannot_be_a_selection_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_the_fingerprint_knows_pool_indices_order_and_configuration_but_not_the_details():
    edited = Pool.from_records([*RECORDS[:8], {"text": "text 8!", "label": "b"}], TEMPLATE)
    others = [make((4, 2, 0)), make((4, 0)), make(config={"seed": 1}), make(pool=edited)]
    assert len({selection.fingerprint for selection in [make(), *others]}) == 5
    assert make(details={"seconds": 3.5}).fingerprint == make().fingerprint


def test_the_configuration_is_a_copy():
    config = {"quotas": {"a": 1}}
    selection = make(config=config)
    before = selection.fingerprint
    config["quotas"]["a"] = 2
    assert selection.fingerprint == before


def test_heads_are_nested_and_forget_what_no_longer_holds():
    selection = make()
    head = selection.head(2)
    assert (head.indices, head.scores, head.objective) == ((4, 0), (3.0, 2.0), (1.0, 0.5))
    assert set(head.details) == {"objective_name", "device", "skipped", "fingerprints"}
    assert head.config == {"seed": 0, "shots": 2, "head_of": 3} and selection.config == {"seed": 0}
    assert head.report()["tokens"] is None
    assert head.report()["objective"] == {"name": "distance", "first": 1.0, "final": 0.5, "random": None}
    assert head.head(1) == selection.head(1)
    assert selection.head(3) == selection
    assert selection.head(np.int64(2)) == head
    assert make(objective=()).head(2).objective == ()


def test_a_head_of_all_rows_has_the_random_objective_of_its_own_length():
    """For rows 0 to 8 by hand: a single one is 20/3 from their mean in the mean square, all nine 0."""
    spread = math.sqrt(20 / 3)
    details = {"random_objective": 0.0, "random_spread": spread, "random_rows": 9}
    selection = make(tuple(range(9)), details=details)
    values = np.arange(9.0)
    pairs = [(values[[i, j]].mean() - 4) ** 2 for i in range(9) for j in range(i)]
    assert selection.head(1).report()["objective"]["random"] == pytest.approx(spread)
    assert selection.head(2).report()["objective"]["random"] == pytest.approx(math.sqrt(np.mean(pairs)))
    assert selection.head(5).head(2) == selection.head(2)


@pytest.mark.parametrize("k", [0, 4, -1, True, 2.0, None, "2"])
def test_a_head_must_be_part_of_the_selection(k):
    with pytest.raises(SettingError, match="from 1 to 3"):
        make().head(k)


def test_the_report_is_json_and_says_what_was_chosen_and_how():
    report = make().report()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["shots"] == 3
    assert report["pool_size"] == 9
    assert report["labels"] == {"pool": {"a": 6, "b": 3}, "selection": {"a": 2, "b": 1}}
    assert report["label_kl"] == 0.0
    assert report["objective"] == {"name": "distance", "first": 1.0, "final": 1 / 3, "random": 9.0}
    assert report["tokens"] == 33
    assert report["skipped"] == {"too_long": [8]}
    assert report["duplicate_groups"] == {"exact": 0, "normalised": 0, "conflicting": 0}
    assert set(report["fingerprints"]) == {"weights", "pool", "selection"}
    assert make(objective=(), details={}).report()["objective"] is None


def test_changing_the_report_does_not_reach_the_selection():
    selection = make()
    report = selection.report()
    report["config"]["seed"] = report["skipped"]["too_long"] = "changed"
    assert selection.report() == make().report()


def test_the_divergence_of_labels_is_in_nats_and_zero_only_for_equal_shares():
    assert label_kl({"a": 2, "b": 1}, {"a": 6, "b": 3}) == 0.0
    assert label_kl({"a": 3}, {"a": 1, "b": 1}) == pytest.approx(math.log(2))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert label_kl({"a": 1, "b": 1}, {"a": 1, "b": 3}) == pytest.approx(expected)


def test_a_prompt_shows_each_demonstration_with_the_bytes_that_the_proxy_saw(tmp_path):
    selection = make()
    prompt = selection.to_prompt(instruction="Name it.")
    shown = "".join(POOL.texts[i] + "\n\n" for i in selection.indices)
    assert prompt.text({"text": "q"}) == "Name it.\n\n" + shown + "Q: q\nA:"
    assert prompt.examples == selection.examples
    assert prompt.provenance["selection"] == selection.fingerprint
    assert prompt.provenance["indices"] == [4, 0, 2]
    assert prompt.provenance["fingerprints"] == {"weights": "w"}
    for name in ("one.json", "two.json"):
        make(details={**DETAILS, "seconds": len(name)}).to_prompt("Name it.").save(tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert ManyShotPrompt.load(tmp_path / "one.json") == prompt


def test_fields_that_json_cannot_hold_are_left_out_and_named():
    odd = [datetime.date(2020, 1, 1), None, "text"]
    bad = ["fine", "fine", "\ud800"]
    records = [
        {"text": "a", "label": "b", "when": when, "bad": text, 3 * "k": [1]}
        for when, text in zip(odd, bad, strict=True)
    ]
    pool = Pool.from_records(records, TEMPLATE)
    prompt = Selection(pool, (2, 0), (1.0, 0.0)).to_prompt()
    assert prompt.provenance["left_out_fields"] == ["when", "bad"]
    assert prompt.examples == ({"text": "a", "label": "b", "kkk": [1]},) * 2


def test_a_selector_is_what_selects():
    class First:
        def select(self, pool, shots=None, *, max_tokens=None, quotas=None, include=(), exclude=()):
            return Selection(pool, tuple(range(shots)), (0.0,) * shots)

    assert isinstance(First(), Selector)
    assert not isinstance(POOL, Selector)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, icl_plugins\n"
        "icl_plugins.Pool, icl_plugins.ManyShotPrompt, icl_plugins.Selection\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    loaded = set(run.stdout.split())
    assert not {"torch", "transformers", "numpy", "datasets", "sklearn", "scipy", "rich"} & loaded


def test_every_public_name_is_listed_and_no_other_resolves():
    assert set(icl_plugins.__all__) <= set(dir(icl_plugins))
    assert icl_plugins.Pool is Pool
    with pytest.raises(AttributeError, match="Nothing"):
        _ = icl_plugins.Nothing
