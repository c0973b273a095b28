"""What the instruction takes of a token budget, which counts the prompt as it is sent."""

from typing import TYPE_CHECKING

from icl_plugins.errors import BudgetError

if TYPE_CHECKING:
    from icl_plugins.examples import Pool


def instruction_tokens(instruction: str, pool: "Pool", tokenizer: str) -> int:
    """Return how many tokens the instruction and its separator add in front of a demonstration, at most."""
    if not instruction:
        return 0
    from icl_plugins.cli.report import count_with

    # what follows decides how the separator splits: one text for each first character stands for all
    starts = list({text[:1]: text for text in pool.texts}.values())
    front = instruction + pool.template.separator
    counts = count_with(tokenizer, [*(front + text for text in starts), *starts])
    pairs = zip(counts[: len(starts)], counts[len(starts) :], strict=True)
    return max(together - alone for together, alone in pairs)


def remaining_tokens(max_tokens: int | None, used: int) -> int | None:
    """Return the budget of the demonstrations; raises BudgetError if the instruction leaves nothing."""
    if max_tokens is None or not used:
        return max_tokens
    if used >= max_tokens:
        raise BudgetError(
            f"--max-tokens {max_tokens}, of which the instruction takes {used}",
            expected="room for the instruction and at least one demonstration",
            fix="raise --max-tokens or shorten the instruction",
        )
    return max_tokens - used
