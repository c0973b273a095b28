"""The options of the command line; they have the names that Python has."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from icl_plugins.cli.methods import Method, Order

_DATA, _LIMITS, _METHOD, _OUTPUT = "Data", "Limits", "Method", "Output"

PoolName = Annotated[
    str, Argument(metavar="POOL", help="A .jsonl, .json (an array), .csv or .tsv file, or sample:banking77.")
]
Question = Annotated[
    str | None,
    Option(
        "--question",
        "-q",
        metavar="TEXT",
        rich_help_panel=_DATA,
        help=r"Template of the question, fields in braces; \n is a line end. Shipped data has its own.",
    ),
]
Answer = Annotated[
    str | None,
    Option(
        "--answer",
        "-a",
        metavar="TEXT",
        rich_help_panel=_DATA,
        help="Template of the answer; begin it with a space where the question ends without one.",
    ),
]
Separator = Annotated[
    str, Option(metavar="TEXT", rich_help_panel=_DATA, help="What stands between demonstrations.")
]
Instruction = Annotated[
    str, Option(metavar="TEXT", rich_help_panel=_DATA, help="Text in front of the demonstrations.")
]
LabelField = Annotated[
    str | None,
    Option(metavar="FIELD", rich_help_panel=_DATA, help="Field that holds the label; default: the answer."),
]
Dedupe = Annotated[
    Literal["none", "exact", "normalised"],
    Option(
        rich_help_panel=_DATA,
        help="Keep the first of equal demonstrations (exact), or of questions equal in letters and digits.",
    ),
]
DropConflicting = Annotated[
    bool,
    Option(
        "--drop-conflicting",
        rich_help_panel=_DATA,
        help="Leave out all examples whose question occurs with more than one label.",
    ),
]

Shots = Annotated[
    int | None, Option("--shots", "-n", rich_help_panel=_LIMITS, help="Number of demonstrations.")
]
MaxTokens = Annotated[
    int | None,
    Option(
        rich_help_panel=_LIMITS,
        help="Tokens of instruction and demonstrations, with or instead of --shots. With --target those of "
        "the whole chat prompt, a query as long as the pool's longest included.",
    ),
]
Tokenizer = Annotated[
    str | None,
    Option(
        metavar="NAME",
        rich_help_panel=_LIMITS,
        help="Counts the tokens: a folder or Hugging Face id. Default: that of --target, else the proxy's.",
    ),
]
Target = Annotated[
    str | None,
    Option(
        metavar="NAME",
        rich_help_panel=_LIMITS,
        help="The model that will read the prompt, such as gpt-4o-mini: counts the chat prompt as it does.",
    ),
]
ChatLayout = Annotated[
    Literal["turns", "single", "json"] | None,
    Option(
        "--layout",
        rich_help_panel=_LIMITS,
        help="How the target gets the prompt: in turns (default), a single message, or a JSON block.",
    ),
]
Quotas = Annotated[
    str | None,
    Option(
        metavar="TEXT",
        rich_help_panel=_LIMITS,
        help="proportional, or N (at least so many of each label), or label=N,label=N.",
    ),
]
Include = Annotated[
    str | None,
    Option(metavar="ROWS", rich_help_panel=_LIMITS, help="Rows to show for sure, counted from 0: 3,17."),
]
Exclude = Annotated[
    str | None, Option(metavar="ROWS", rich_help_panel=_LIMITS, help="Rows never to show: 4,8.")
]

MethodName = Annotated[
    Method,
    Option("--method", "-m", metavar="NAME", rich_help_panel=_METHOD, help="One of those listed below."),
]
OrderName = Annotated[
    Order,
    Option(
        "--order",
        rich_help_panel=_METHOD,
        help="Of the demonstrations: as chosen (greedy), lowest loss first, labels spread evenly, nearest to "
        "the pool's mean last, a permutation by --seed, or the best of 16 orders on other examples.",
    ),
]
Proxy = Annotated[
    str | None,
    Option(
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="The model that chooses: micro (shipped, default), a folder or a Hugging Face id.",
    ),
]
Seed = Annotated[int | None, Option(rich_help_panel=_METHOD, help="Default: 0.")]
Store = Annotated[
    str | None,
    Option(
        metavar="FOLDER",
        rich_help_panel=_METHOD,
        help="Keep the gradients there: an interrupted run goes on, the next one reuses them.",
    ),
]
OnTooLong = Annotated[
    Literal["error", "skip", "truncate"] | None,
    Option(rich_help_panel=_METHOD, help="For examples longer than the proxy's context. Default: error."),
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set", metavar="NAME=VALUE", rich_help_panel=_METHOD, help="Any setting listed below; repeatable."
    ),
]

Out = Annotated[
    Path, Option("--out", "-o", rich_help_panel=_OUTPUT, help="The prompt; replaced if it exists.")
]
ReportFile = Annotated[
    Path | None,
    Option(
        "--report",
        metavar="FILE",
        rich_help_panel=_OUTPUT,
        help="Also an HTML page to look at: labels, map of the pool, objective, demonstrations.",
    ),
]
PlotsFolder = Annotated[
    Path | None,
    Option(
        "--plots",
        metavar="FOLDER",
        rich_help_panel=_OUTPUT,
        help="Also each plot of the page as SVG and PNG; made if it is not there.",
    ),
]
Json = Annotated[bool, Option("--json", rich_help_panel=_OUTPUT, help="JSON on stdout instead of a table.")]
