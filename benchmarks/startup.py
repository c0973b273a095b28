"""B9, start-up: `import icl_plugins` within 100 ms and without torch, `icl-plugins --help` within 300 ms.

Wall time of fresh processes, the two commands in turns, start of the interpreter included; smallest and median
of the runs after one warm-up. Run: python benchmarks/startup.py [runs]
"""

import statistics
import subprocess
import sys
import time

GOALS_MS = {
    "import icl_plugins": (100.0, [sys.executable, "-c", "import icl_plugins"]),
    "icl-plugins --help": (300.0, [sys.executable, "-c", "from icl_plugins.cli import main; main()", "--help"]),
}
HEAVY = ("torch", "transformers", "numpy")


def milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - start)


def loaded_by_import() -> list[str]:
    code = f"import sys, icl_plugins; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def main(runs: int = 10) -> int:
    times: dict[str, list[float]] = {name: [] for name in GOALS_MS}
    for run in range(runs + 1):
        for name, (_, command) in GOALS_MS.items():
            elapsed = milliseconds(command)
            if run:
                times[name].append(elapsed)
    heavy = loaded_by_import()
    print(f"Python {sys.version.split()[0]}, {runs} runs; import icl_plugins loads of {HEAVY}: {heavy or 'none'}")
    failed = "torch" in heavy or "transformers" in heavy
    for name, (goal, _) in GOALS_MS.items():
        least, middle = min(times[name]), statistics.median(times[name])
        failed |= least > goal
        print(f"{name:20} min {least:6.1f} ms  median {middle:6.1f} ms  goal {goal:.0f} ms")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
