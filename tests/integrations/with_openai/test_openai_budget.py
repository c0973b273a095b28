"""A token budget of a target: filled to the last demonstration that fits, and never passed."""

from dataclasses import replace

import pytest
from openai_icl import ChatTokens, KnownModel

from icl_plugins import (
    BM25,
    BestOfN,
    GradientMatching,
    KMeans,
    LatentBayesian,
    ManyShotPrompt,
    Pool,
    Random,
    Similarity,
    Template,
)
from icl_plugins.errors import BudgetError, SettingError

WORDS = [
    "my",
    "card",
    "has",
    "not arrived",
    "yet",
    "what",
    "is",
    "the",
    "rate",
    "déjà",
    "中文",
    "I",
    "<|endoftext|>",
]
INSTRUCTION = "Name the intent of the query."
SELECTORS = {
    "random": Random(),
    "bm25": BM25(),
    "similarity": Similarity(),
    "kmeans": KMeans(),
    "best_of_n": BestOfN(sets=2, held_out=4),
    "latent_bayesian": LatentBayesian(epochs=1),
    "gradient_matching": GradientMatching(epochs=1, batch_size=16),
}


@pytest.fixture(scope="module")
def pool():
    records = [
        {
            "text": " ".join(WORDS[(row * 5 + at) % 13] for at in range(1 + row * row % 13)) + f" {row}",
            "label": ("card_arrival", "rate", "lost_or_stolen_phone")[row % 3],
        }
        for row in range(40)
    ]
    return Pool.from_records(records, Template(question="Query: {text}\nIntent:", answer=" {label}"))


def longest(pool, indices, target, layout):
    """The most tokens that a prompt of these rows has, over all queries of the pool: by counting each."""
    prompt = ManyShotPrompt(
        template=pool.template,
        demonstrations=tuple((pool.questions[row], pool.answers[row]) for row in indices),
        examples=tuple(pool.examples[row] for row in indices),
        instruction=INSTRUCTION,
    )
    return max(target.at_most(prompt.messages(example, layout)) for example in pool)


@pytest.mark.parametrize("budget", [200, 333, 500])
@pytest.mark.parametrize("name", SELECTORS)
def test_a_budget_is_filled_exactly_whatever_selects(pool, name, budget):
    target = KnownModel.of("gpt-4o-mini")
    selector = replace(SELECTORS[name], tokenizer=ChatTokens(target, INSTRUCTION))
    selection = selector.select(pool, max_tokens=budget)
    used = longest(pool, selection.indices, target, "turns")
    assert used == selection.details["tokens"] <= budget
    for row in set(range(len(pool))) - set(selection.indices):
        assert longest(pool, (*selection.indices, row), target, "turns") > budget


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
@pytest.mark.parametrize("model", ["gpt-4", "micro", "deepseek/deepseek-chat"])
@pytest.mark.parametrize("budget", [300, 471])
def test_no_prompt_of_any_layout_and_target_passes_its_budget(pool, model, layout, budget):
    target = KnownModel.of(model)
    selection = Random(tokenizer=ChatTokens(target, INSTRUCTION, layout)).select(pool, max_tokens=budget)
    used = longest(pool, selection.indices, target, layout)
    assert used == selection.details["tokens"] <= budget
    dearest = max(ChatTokens(target, INSTRUCTION, layout).costs(pool))
    assert used > budget - dearest - 4


def test_an_estimate_leaves_its_margin(pool):
    estimate, exact = (KnownModel.of(name) for name in ("deepseek/deepseek-chat", "gpt-4o-mini"))
    shots = [len(Random(tokenizer=ChatTokens(t)).select(pool, max_tokens=600)) for t in (estimate, exact)]
    assert shots[0] < shots[1]
    chosen = Random(tokenizer=ChatTokens(estimate)).select(pool, max_tokens=600)
    assert 1.25 * exact.count(chosen.to_prompt().messages(pool.examples[0])) <= 600


def test_a_target_can_count_with_shots_quotas_and_rows_to_include(pool):
    counter = ChatTokens(KnownModel.of("gpt-4o-mini"))
    chosen = Random(tokenizer=counter).select(pool, 6, max_tokens=400, quotas=1, include=[5], exclude=[0])
    assert len(chosen) == 6 and chosen.indices[0] == 5 and 0 not in chosen.indices
    assert set(chosen.labels) == set(pool.labels)


def test_the_selection_says_what_counted(pool):
    selection = Random(tokenizer=ChatTokens(KnownModel.of("gpt-4o-mini"), layout="json")).select(
        pool, max_tokens=300
    )
    assert selection.config["tokenizer"] == "gpt-4o-mini (o200k_base, json)"
    estimate = ChatTokens(KnownModel.of("deepseek/deepseek-chat"))
    assert estimate.name == "deepseek/deepseek-chat (o200k_base + 25%, turns)"


def test_a_budget_that_instruction_and_query_fill_is_refused_before_the_work(pool, monkeypatch):
    monkeypatch.setattr("icl_plugins.selectors.gradient_matching.load_proxy", lambda _: pytest.fail("loaded"))
    selector = GradientMatching(tokenizer=ChatTokens(KnownModel.of("gpt-4o-mini"), INSTRUCTION * 10))
    with pytest.raises(BudgetError, match="of which instruction and query take"):
        selector.select(pool, max_tokens=80)


@pytest.mark.parametrize("target", ["gpt-4o-mini", None])
def test_the_name_of_a_target_is_refused_at_once_with_what_to_pass(target):
    with pytest.raises(SettingError, match=r"KnownModel\.of\("):
        ChatTokens(target)


def test_what_cannot_count_is_no_tokenizer():
    with pytest.raises(SettingError, match="tokenizer"):
        Random(tokenizer=KnownModel.of("gpt-4o-mini"))
