"""Intent classification in LangChain: one fixed many-shot prompt in front of every question.

    python examples/langchain_intents.py                                   # offline, the shipped model
    python examples/langchain_intents.py --model openai:gpt-4o-mini        # as init_chat_model names it
    python examples/langchain_intents.py --model deepseek:deepseek-chat    # that is ChatDeepSeek

Ends with the accuracy of gradient-matched shots against that of random ones.
"""

from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable
from langchain_icl import as_chat_prompt
from langchain_target import accuracy, questions, report, target

from icl_plugins import GradientMatching, Pool, Random, Selection, Template

SHOTS, TEST, SEEDS = 32, 60, range(3)
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")


def chain(selection: Selection, model: BaseChatModel) -> Runnable[dict[str, str], str]:
    """Return text -> intent; everything before the query is the same every time."""
    prompt = selection.to_prompt(instruction="Name the intent of the query.")
    return as_chat_prompt(prompt) | model | StrOutputParser()


def main() -> None:
    """Choose from one part of the questions, compare on the other."""
    test, train = questions()[:TEST], questions()[TEST:]
    pool = Pool.from_records(train, TEMPLATE)
    matched = GradientMatching(seed=0).select(pool, SHOTS)
    controls = [Random(seed=seed).select(pool, SHOTS) for seed in SEEDS]
    with target(__doc__ or "") as model:
        scores = [accuracy(chain(control, model), test) for control in controls]
        report(accuracy(chain(matched, model), test), scores, len(test))


if __name__ == "__main__":
    main()
