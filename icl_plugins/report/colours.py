"""The colours of the report, each with a value for light and for dark; plots and page share them.

A plot is drawn in the light values; in the page each of them becomes the variable that also has the dark one.
The eight series are told apart with every kind of colour vision (OKLab distance under simulated protanopia,
deuteranopia and tritanopia), and stand out from the page at 3:1 at least; text does so at 4.5:1.
"""

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1a2027",
    "muted": "#56606b",
    "line": "#d5dbe1",
    "band": "#c3ccd6",
    "link": "#2f43a8",
    "other": "#868f99",
    "series-1": "#3244ab",
    "series-2": "#cc7b2c",
    "series-3": "#00a3b4",
    "series-4": "#945279",
    "series-5": "#5f6300",
    "series-6": "#6f70dc",
    "series-7": "#6f1102",
    "series-8": "#003f4f",
}
DARK = {
    "paper": "#12161b",
    "panel": "#1b2128",
    "ink": "#e8ecf0",
    "muted": "#a7b1bc",
    "line": "#36404a",
    "band": "#414d59",
    "link": "#9cc4ff",
    "other": "#7b858f",
    "series-1": "#81c8ff",
    "series-2": "#f4a500",
    "series-3": "#04ffdc",
    "series-4": "#925a86",
    "series-5": "#e5f062",
    "series-6": "#9f82f3",
    "series-7": "#d36018",
    "series-8": "#34ad95",
}
SERIES = tuple(LIGHT[f"series-{number}"] for number in range(1, 9))


def variables(colours: dict[str, str]) -> str:
    """Return the colours as CSS variables."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())
