"""ChatTokens: a token budget counted as the target reads the prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icl_plugins.prompt import Layout, ManyShotPrompt
from openai_icl.known_model import KnownModel, check_target

if TYPE_CHECKING:
    from icl_plugins.examples import Pool


@dataclass(frozen=True)
class ChatTokens:
    """Counts the whole chat prompt with the target's tokenizer, as the `tokenizer` of any selector.

    Instruction, demonstrations, what the chat format puts around every message and the opening of the reply
    count, and so does the query: at the length of the pool's longest question. So a prompt for any query that
    is no longer stays within `max_tokens`; an estimate counts with its margin on top. In layout "turns" every
    message counts for itself, so no row of the pool would fit into what is left; in the others, and in chat
    templates where messages touch, a few tokens may stay unused.

    Raises SettingError for a target that is none.
    """

    target: KnownModel
    instruction: str = ""
    layout: Layout = "turns"
    _queries: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the target."""
        check_target(self.target)

    @property
    def name(self) -> str:
        """The target, its tokenizer, with the margin that is added to an estimate, and the layout."""
        counter = self.target.counter
        margin = f" + {counter.margin:.0%}" if counter.margin else ""
        return f"{self.target.name} ({counter.tokenizer}{margin}, {self.layout})"

    def fixed(self, pool: "Pool") -> int:
        """Return the tokens of instruction and query."""
        return self.total(pool, ())

    def costs(self, pool: "Pool") -> list[int]:
        """Return the tokens that each demonstration of the pool adds behind another one, (N,)."""
        return [self.total(pool, (row, row)) - self.total(pool, (row,)) for row in range(len(pool))]

    def total(self, pool: "Pool", indices: Sequence[int]) -> int:
        """Return the tokens of the prompt with these demonstrations in this order."""
        prompt = ManyShotPrompt(
            template=pool.template,
            demonstrations=tuple((pool.questions[row], pool.answers[row]) for row in indices),
            examples=({},) * len(indices),
            instruction=self.instruction,
        )
        return self.target.at_most(prompt.messages(self.longest(pool), self.layout))

    def longest(self, pool: "Pool") -> Mapping[str, object]:
        """Return the example with the longest question, which stands for the query; found once for a pool."""
        key = pool.fingerprint
        if key not in self._queries:
            lengths = [self.target.count([{"role": "user", "content": text}]) for text in pool.questions]
            self._queries[key] = lengths.index(max(lengths))
        return pool.examples[self._queries[key]]
