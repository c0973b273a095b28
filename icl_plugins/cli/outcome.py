"""How a command ends: its result on stdout, or an error on stderr, and the exit code."""

import contextlib
import json
import os
import sys
import traceback
from typing import Any, cast

from rich.console import Console, RenderableType
from rich.text import Text
from typer.exceptions import TyperException

from icl_plugins.errors import (
    IclError,
    NonFiniteError,
    OptionalDependencyError,
    ProxyError,
    SettingError,
    StoreError,
    TargetError,
    TuningError,
)

OK, UNEXPECTED, USAGE, DATA, PROXY, TARGET, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

Result = str | RenderableType | None


def exit_code(error: BaseException) -> int:
    """Return the documented exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, TyperException | SettingError | OptionalDependencyError):
        return USAGE
    if isinstance(error, ProxyError | StoreError | NonFiniteError | TuningError):
        return PROXY
    if isinstance(error, TargetError):
        return TARGET
    return DATA if isinstance(error, IclError) else UNEXPECTED


def as_json_text(value: object) -> str:
    """Return a result as JSON text."""
    from icl_plugins.artefacts import canonical_json

    return canonical_json(value, indent=2) + "\n"


def write_result(result: Result) -> None:
    """Write text as it is (JSON, prompts), anything else as rich renders it; a closed pipe is no error."""
    try:
        if isinstance(result, str):
            sys.stdout.flush()
            sys.stdout.buffer.write(result.encode("utf-8"))
        elif result is not None:
            _Console(highlight=False, emoji=False).print(result)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    """A console that leaves a closed pipe to the caller, where rich's own would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def report_error(error: BaseException, arguments: list[str]) -> int:
    """Write an error to stderr, as one line of JSON if the arguments ask for it; return its exit code."""
    code = exit_code(error)
    if "--json" in arguments:
        sys.stderr.write(json.dumps({"error": _fields(error), "exit_code": code}) + "\n")
        return code
    if code == UNEXPECTED:
        traceback.print_exception(error)
    if isinstance(error, TyperException):
        from typer.rich_utils import rich_format_error

        rich_format_error(cast(Any, error))  # its own class for the same thing is private
    else:
        Console(stderr=True, highlight=False).print(_lines(error), soft_wrap=True)
    return code


def _fields(error: BaseException) -> dict[str, str]:
    kind = type(error).__name__
    if isinstance(error, IclError):
        return {"type": kind, "got": error.got, "expected": error.expected, "fix": error.fix}
    message = error.format_message() if isinstance(error, TyperException) else str(error)
    return {"type": kind, "got": message}


def _lines(error: BaseException) -> Text:
    if isinstance(error, KeyboardInterrupt):
        kept = (
            "What compare has measured is kept, the last checkpoint of tune, and with --store the gradients"
        )
        return Text(f"Interrupted. {kept}: run the same command to go on.")
    if not isinstance(error, IclError):
        return Text("This should not happen: please report the lines above.", style="red")
    text = Text("Error: ", style="bold red")
    text.append(f"{error.got}\n", style="default not bold")
    text.append("Expected: ", style="bold default").append(f"{error.expected}\n", style="default not bold")
    text.append("To fix: ", style="bold default").append(error.fix, style="default not bold")
    return text
