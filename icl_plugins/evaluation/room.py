"""Room: how many tokens a prompt may have, so that every item fits behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.answers import continued
from icl_plugins.evaluation.datasets import DataSet
from icl_plugins.evaluation.golds import labels_of
from icl_plugins.examples import Pool
from icl_plugins.prompt import Layout
from icl_plugins.selectors._tokens import Counter, PromptTokens

_AROUND = 2  # a token in front (BOS), and one that may come in where texts meet


@dataclass(frozen=True)
class Room:
    """What counts the tokens of a request, and how many there may be; a limit of None is not known.

    fixed: of a request without demonstrations. costs (N,): what each example of the pool adds.
    """

    tokens: PromptTokens
    limit: int | None
    fixed: int
    costs: tuple[int, ...]

    @classmethod
    def of(cls, tokens: PromptTokens, limit: int | None, data: DataSet) -> "Room":
        """Return the room for a data set; raises SettingError where not one demonstration fits."""
        room = cls(tokens, limit, tokens.fixed(data.pool), tuple(tokens.costs(data.pool)))
        if limit is not None and room.fixed + min(room.costs) > limit:
            raise SettingError(
                f"{data.config.name}: the longest item, its answer and one demonstration take "
                f"{room.fixed + min(room.costs)} tokens",
                expected=f"at most {limit}, what the target reads at once",
                fix="raise target.context, lower max_tokens, or choose another target",
            )
        return room

    def holds(self, shots: int) -> bool:
        """Return whether so many demonstrations fit, whichever they are; a token may come in at each seam."""
        longest = sorted(self.costs)[-shots:]
        return self.limit is None or self.fixed + sum(longest) + shots <= self.limit

    @property
    def expected_shots(self) -> int:
        """How many demonstrations of mean length fit, of all but one of the pool."""
        others = len(self.costs) - 1
        if self.limit is None:
            return others
        return min(others, max(1, int((self.limit - self.fixed) * len(self.costs) / sum(self.costs))))


class PlainTokens:
    """A request as one text: instruction, demonstrations, and `query` tokens for the longest item and answer.

    name, count: of the tokenizer. A PromptTokens: what counts for the token budget of every selector.
    """

    def __init__(self, name: str, count: Counter, instruction: str, query: int) -> None:
        self.name, self._count, self._instruction, self._query = name, count, instruction, query
        self._costs: dict[str, list[int]] = {}

    @classmethod
    def of(cls, name: str, count: Counter, data: DataSet) -> "PlainTokens":
        """Return what counts the requests of a data set."""
        query = max(count(data.items.questions)) + answer_tokens(count, data, "single") + _AROUND
        return cls(name, count, data.config.instruction, query)

    def fixed(self, pool: Pool) -> int:
        """Return the tokens of instruction, query and answer."""
        return self.total(pool, ())

    def costs(self, pool: Pool) -> list[int]:
        """Return the tokens of each demonstration with its separator; counted once for a pool."""
        if pool.fingerprint not in self._costs:
            separator = pool.template.separator
            self._costs[pool.fingerprint] = self._count([text + separator for text in pool.texts])
        return self._costs[pool.fingerprint]

    def total(self, pool: Pool, indices: Sequence[int]) -> int:
        """Return the tokens of a request with these demonstrations in this order."""
        texts = [self._instruction] if self._instruction else []
        texts += [pool.texts[row] for row in indices]
        return self._count(["".join(text + pool.template.separator for text in texts)])[0] + self._query


def answer_tokens(count: Counter, data: DataSet, layout: Layout) -> int:
    """Return the tokens of the longest choice, or how many the target may write."""
    groups = set(labels_of(data.choices, len(data.items)))
    choices = sorted({text for own in groups for text in continued(own, data.pool.template, layout)})
    return max(count(choices)) if choices else data.config.max_tokens
