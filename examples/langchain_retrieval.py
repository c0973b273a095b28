"""Retrieval in LangChain: similar resolved tickets for each question, after a fixed many-shot prompt.

    python examples/langchain_retrieval.py                                   # offline, the shipped model
    python examples/langchain_retrieval.py --model openai:gpt-4o-mini        # as init_chat_model names it
    python examples/langchain_retrieval.py --model deepseek:deepseek-chat    # that is ChatDeepSeek

The demonstrations show how to use what was retrieved, so each was rendered with tickets retrieved for it.
They stay the same for every question, and the provider's cache pays for them: only tickets and question are
new.
Ends with the accuracy of gradient-matched shots against that of random ones.
"""

from typing import Any

import bm25s
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_icl import as_chat_prompt
from langchain_target import accuracy, questions, report, target

from icl_plugins import GradientMatching, Pool, Random, Selection, Template

TICKETS, TEST, SHOTS, SEEDS = 50, 36, 12, range(3)
TEMPLATE = Template(question="{context}\nQuery: {text}\nIntent:", answer=" {label}")


class Tickets(BaseRetriever):
    """The resolved tickets that share most words with a question, the most similar last."""

    documents: list[Document]
    index: Any
    k: int = 3

    @classmethod
    def of(cls, records: list[dict[str, str]]) -> "Tickets":
        """Index questions with their intents."""
        texts = [f"Query: {record['text']}\nIntent: {record['label']}" for record in records]
        index = bm25s.BM25()
        index.index(_words([record["text"] for record in records]), show_progress=False)
        return cls(documents=[Document(text) for text in texts], index=index)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        rows, _ = self.index.retrieve(_words([query]), k=self.k, show_progress=False)
        return [self.documents[row] for row in reversed(rows[0])]


def _words(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, show_progress=False)


def joined(documents: list[Document]) -> str:
    """Return the documents as one text."""
    return "\n".join(document.page_content for document in documents)


def main() -> None:
    """Retrieve from one part of the questions, choose from another, compare on the rest."""
    rows = questions()
    tickets, test, train = rows[:TICKETS], rows[TICKETS : TICKETS + TEST], rows[TICKETS + TEST :]
    retrieve = Tickets.of(tickets) | joined
    contexts = retrieve.batch([record["text"] for record in train])
    records = [{**record, "context": context} for record, context in zip(train, contexts, strict=True)]
    pool = Pool.from_records(records, TEMPLATE)

    def chain(selection: Selection, model: BaseChatModel) -> Runnable[dict[str, str], str]:
        prompt = as_chat_prompt(selection.to_prompt(instruction="Name the intent of the last query."))
        found = RunnablePassthrough.assign(context=(lambda query: query["text"]) | retrieve)
        return found | prompt | model | StrOutputParser()

    matched = GradientMatching(seed=0).select(pool, SHOTS)
    controls = [Random(seed=seed).select(pool, SHOTS) for seed in SEEDS]
    with target(__doc__ or "") as model:
        scores = [accuracy(chain(control, model), test) for control in controls]
        report(accuracy(chain(matched, model), test), scores, len(test))


if __name__ == "__main__":
    main()
