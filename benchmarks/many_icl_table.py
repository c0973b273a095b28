"""The tables of `many_icl`, from its JSON: accuracy against shots, differences, forgetting.

    python benchmarks/many_icl_table.py runs/many_icl/cells.jsonl --page docs/benchmarks-tuning.md

What stands between the two markers of the page is replaced; a page that is not there is begun.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from many_icl_samples import DEDICATED, Cells, Value, average, hits, lines, nats, percent, plain
from many_icl_tasks import SEEN_KINDS, TRAINED, UNSEEN_KINDS

from icl_plugins.tuning.forgetting import backward_transfer

START, END = "<!-- tables of many_icl_table.py -->\n", "<!-- end of tables -->\n"
NAMES = {
    "base": "base, untouched",
    "many_icl": "ManyICL (mask-all)",
    "mask_last": "mask-last",
    "full_lm": "full language modelling",
    "zero_shot": "zero-shot multi-task",
    "other_names": "ManyICL + other names",
    "adapter": "ManyICL, adapter",
    "adapter_kl_replay": "ManyICL, adapter + plain text + KL",
}
SHOTS = (0, 4, 16, 64, 256)
CHOICES = tuple(name for name in UNSEEN_KINDS if name == "openbookqa")
FREE = tuple(name for name in UNSEEN_KINDS if name not in CHOICES)


def methods(cells: Cells, *, dedicated: bool = False) -> dict[str, str]:
    found = {name: title for name, title in NAMES.items() if name in cells}
    return {**found, DEDICATED: DEDICATED} if dedicated else found


def accuracies(cells: Cells, names: Sequence[str], *, dedicated: bool = False) -> list[str]:
    content = [
        (title, *(percent(average(cells, method, names, hits(shots))) for shots in SHOTS))
        for method, title in methods(cells, dedicated=dedicated).items()
    ]
    return lines(("accuracy, %", *(f"{shots} shots" for shots in SHOTS)), content)


def gains(cells: Cells) -> list[str]:
    """ManyICL minus each other, by group."""
    groups = {"trained": TRAINED, "unseen, of seen kinds": SEEN_KINDS}
    content = [
        (
            title,
            *(
                percent(average(cells, "many_icl", names, hits(shots), method), signed=True)
                for names in groups.values()
                for shots in (0, 16, 64)
            ),
        )
        for method, title in methods(cells).items()
        if method != "many_icl"
    ]
    heads = [f"{group}, {shots} shots" for group in groups for shots in (0, 16, 64)]
    return lines(("ManyICL minus", *heads), content)


def text_of(cells: Cells, method: str) -> tuple[str, str]:
    """The change of nats per token, and KL; the mean and the range over models."""
    own = [
        cell["text"] for name, group in cells.items() if name.startswith(method) for cell in group
        if "text" in cell and (name == method or method == "dedicated ")
    ]  # fmt: skip
    if not own:
        return "", ""
    change = [one["after"] - one["before"] for one in own]
    kl = [one["divergence"] for one in own]
    return tuple(f"{np.mean(one):+.3f} ({min(one):.3f} to {max(one):.3f})" for one in (change, kl))


def forgotten(cells: Cells) -> list[str]:
    """Differences to the base on unseen kinds, the mean over shots; plain text; trained tasks at 0 shots."""

    def over_shots(make: Callable[[int], Value]) -> Value:
        return lambda task: np.mean(
            [np.atleast_2d(make(shots)(task)).mean(0) for shots in task["shots"]], axis=0
        )

    content = []
    for method, title in methods(cells, dedicated=True).items():
        if method == "base":
            continue
        if method == DEDICATED:
            pooled = {"base": cells["base"], DEDICATED: [
                cell for name, group in cells.items() if name.startswith("dedicated ") for cell in group
            ]}  # fmt: skip
            pooled |= {f"dedicated {name}": pooled[DEDICATED] for name in UNSEEN_KINDS}
        else:
            pooled = cells
        content.append(
            (
                title,
                *(percent(average(pooled, method, [one], over_shots(hits), "base"), True) for one in CHOICES),
                *(plain(average(pooled, method, [one], over_shots(nats), "base")) for one in FREE),
                *text_of(cells, "dedicated " if method == DEDICATED else method),
                percent(average(cells, method, TRAINED, hits(0))),
            )
        )
    free = (f"{name}, nats of an answer" for name in FREE)
    heads = (*(f"{name}, points" for name in CHOICES), *free, "text, nats a token", "KL(base to tuned)")
    return lines(("change to the base", *heads, "trained tasks, 0 shots, %"), content)


def in_turn(cells: Cells) -> list[str]:
    content = []
    for name, group in cells.items():
        if name.startswith("in turn "):
            shown = [name]
            for shots in group[0]["after_each"]:
                found = [100 * backward_transfer(cell["after_each"][shots]) for cell in group]
                each = ", ".join(f"{one:+.1f}" for one in found)
                end = np.mean([cell["after_each"][shots][-1] for cell in group])
                shown += [f"{np.mean(found):+.1f} ({each})", f"{100 * end:.1f}"]
            content.append(shown)
    heads = [head for shots in (0, 16) for head in (f"transfer, {shots} shots", "accuracy at the end, %")]
    return lines(("trained in turn", *heads), content) if content else []


def tables(cells: Cells) -> str:
    some = next(cell for group in cells.values() for cell in group)["settings"]
    seeds = len({cell["seed"] for group in cells.values() for cell in group})
    trained = [cell for group in cells.values() for cell in group if "tokens" in cell]
    tokens = sorted(cell["tokens"] for cell in trained) or [0]
    text = [
        f"Base `{some['base']}`, {some['steps']} steps of {some['rows']} rows of {some['context']} tokens "
        f"({tokens[0]:,} to {tokens[-1]:,} tokens in all), {seeds} seeds. Accuracy in % with 95 % intervals "
        "over seeds and items (of the base: over draws of demonstrations and items); bold: the interval of a "
        "difference does not hold 0.",
        f"\n### Trained tasks: {', '.join(TRAINED)}",
        *accuracies(cells, TRAINED, dedicated=True),
        f"\n### Unseen tasks of seen kinds: {', '.join(SEEN_KINDS)}",
        *accuracies(cells, SEEN_KINDS),
        "\n### ManyICL minus the others",
        *gains(cells),
        "\n### Forgetting",
        *forgotten(cells),
        *in_turn(cells),
        "\n### Each task",
    ]
    for name in (*TRAINED, *SEEN_KINDS, *CHOICES):
        guess = cells["base"][0]["tasks"][name]
        text.append(f"\n{name}: chance {100 * guess['chance']:.1f}, majority {100 * guess['majority']:.1f}")
        text += accuracies(cells, [name], dedicated=name in TRAINED)
    return "\n".join(text) + "\n"


def check(cells: Cells) -> None:
    """All models must have been asked the same, behind the same demonstrations."""
    base = cells["base"][0]["tasks"]
    for group in cells.values():
        for name, task in ((name, task) for cell in group for name, task in cell.get("tasks", {}).items()):
            if task["asked"] != base[name]["asked"]:
                raise SystemExit(f"{name}: other items or demonstrations than the base had")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    cells: Cells = {}
    for line in args.cells.read_text("utf-8").splitlines():
        cell = json.loads(line)
        cells.setdefault(cell["method"], []).append(cell)
    check(cells)
    page = args.page.read_text("utf-8") if args.page.is_file() else f"# Benchmark: tuning\n\n{START}{END}"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    args.page.write_text(f"{before}{START}\n{tables(cells)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
