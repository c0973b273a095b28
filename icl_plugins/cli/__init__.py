"""The command `icl-plugins`. Heavy libraries are imported inside the commands, so that --help is quick."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from icl_plugins import __version__
from icl_plugins.cli import compare, count, html, select, show, think, tune
from icl_plugins.cli.outcome import INTERRUPTED, OK, report_error, write_result

__all__ = ["app", "main", "run"]

_HELP = """Choose the demonstrations of a fixed many-shot prompt, offline, with a small local model.

[bold]select[/bold] makes labelled examples into prompt.json; [bold]show[/bold] says what was chosen;
[bold]count[/bold] counts tokens; [bold]compare[/bold] measures selectors on a target;
[bold]think[/bold] makes a prompt into a key-value state of a local model; [bold]tune[/bold] teaches a model
to use many shots; [bold]report[/bold] makes a page to look at.
"""
_EPILOG = """[bold]First steps[/bold]

icl-plugins select sample:banking77 --shots 64 --out prompt.json

icl-plugins show prompt.json --query text="my card has not arrived"

icl-plugins select --help

[bold]Exit codes[/bold]  0 done; 1 unexpected; 2 usage or settings; 3 data or files;
4 proxy, gradient store or tuning; 5 target; 130 interrupted.

Results go to stdout, progress and errors to stderr; with --json both are JSON.
"""

app = typer.Typer(
    name="icl-plugins",
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=select.EPILOG)(select.select)
app.command(epilog=show.EPILOG)(show.show)
app.command(epilog=count.EPILOG)(count.count)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=think.EPILOG)(think.think)
app.command(epilog=tune.EPILOG)(tune.tune)
app.command(epilog=html.EPILOG)(html.report)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"icl-plugins {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with the code that --help documents."""
    for stream in (sys.stdout, sys.stderr):  # a table is worth more than a letter that ASCII cannot hold
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; results to stdout, progress and errors to stderr."""
    command = typer.main.get_command(app)
    try:
        result = command.main(arguments, prog_name="icl-plugins", standalone_mode=False)
        if isinstance(result, int):  # typer's way to hand over the code of --help, --version and Ctrl-C
            return report_error(KeyboardInterrupt(), arguments) if result == INTERRUPTED else result
        write_result(result)
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error, arguments)
    return OK
