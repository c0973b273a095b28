"""B9, start-up: `import icl_plugins` within 100 ms and without torch, `icl-plugins --help` within 300 ms.

Fresh processes, the two commands in turns, start of the interpreter included; smallest and median wall time
of the runs after one warm-up, and the smallest processor time, which a busy machine disturbs less.
Run: python benchmarks/startup.py [runs]
"""

import os
import statistics
import subprocess
import sys
import time

GOALS_MS = {"import icl_plugins": 100.0, "icl-plugins --help": 300.0}
CODE = {
    "import icl_plugins": "import icl_plugins",
    "icl-plugins --help": "import sys; from icl_plugins.cli import run; sys.exit(run(['--help']))",
}
HEAVY = ("torch", "transformers", "numpy")


def children_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system


def milliseconds(code: str) -> tuple[float, float]:
    """Wall and processor time of one process."""
    start, used = time.perf_counter(), children_seconds()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - start), 1000 * (children_seconds() - used)


def loaded_by_import() -> list[str]:
    code = f"import sys, icl_plugins; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def main(runs: int = 10) -> int:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CODE}
    for run in range(runs + 1):
        for name, code in CODE.items():
            elapsed = milliseconds(code)
            if run:  # the first fills the disk cache and writes byte code
                times[name].append(elapsed)
    heavy = loaded_by_import()
    print(f"Python {sys.version.split()[0]}, {runs} runs; of {HEAVY} the import loads {heavy or 'none'}")
    failed = "torch" in heavy or "transformers" in heavy
    for name, goal in GOALS_MS.items():
        wall, processor = zip(*times[name], strict=True)
        least, middle = min(wall), statistics.median(wall)
        failed |= least > goal
        print(f"{name}: wall min {least:.0f} ms (goal {goal:.0f}), median {middle:.0f} ms;", end=" ")
        print(f"processor min {min(processor):.0f} ms")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
