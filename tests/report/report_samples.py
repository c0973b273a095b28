"""A selection and a comparison whose texts are hostile, made without any model."""

import json

import numpy as np

from icl_plugins.algorithms.matching import match
from icl_plugins.evaluation.results import Comparison, Evaluation, Run
from icl_plugins.examples import Pool, Template
from icl_plugins.selection import Selection

HOSTILE = (
    "</script><script>document.title = 'broken'</script>",
    "<img src=http://example.com/x.png onerror=\"document.title = 'broken'\">",
    "{{7*7}} {0} %s ${x} $\\frac{1}{2}$ `rm`",
    "&lt;b&gt; &amp; \"double\" 'single' -->",
    "\u0634\u0643\u0631\u0627 \u202e reversed \u2028 next line",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER} \x1b[31m red \x07 bell \ufffe",
    "W" * 300,
    "__init__ #3244ab; fill: red",
)
LABELS = (
    "yes",
    "no",
    "</style><b>x",
    "$\\frac{",
    "_hidden #3244ab; x",
    "\u0644\u0627 \u202e",
    "\x1b[31m",
    "L" * 90,
)


def make_selection(size, shots, labels=LABELS, seed=0):
    """A selection by matching random features of width 12, with the details that the method gives."""
    generator = np.random.default_rng(seed)
    features = (
        generator.normal(size=(size, 12))
        + 2 * generator.normal(size=(len(labels), 12))[np.arange(size) % len(labels)]
    )
    records = [
        {"text": f"{HOSTILE[row % len(HOSTILE)]} {row}", "label": labels[row % len(labels)]}
        for row in range(size)
    ]
    pool = Pool.from_records(records, Template("Query: {text}\nIntent:", " {label}"))
    found = match(features, shots)
    details = {
        "objective_name": "distance of mean features",
        "random_objective": found.random_objective,
        "random_spread": found.spread,
        "random_rows": size,
        "seconds": {"matching": 0.1},
    }
    selection = Selection(
        pool, tuple(found.indices), tuple(found.scores), tuple(found.trace), {"selector": "Matching"}, details
    )
    return selection, features


def make_comparison(
    datasets=("first <b>", "second"), methods=("random", "kmeans", "gradient_matching"), seed=0
):
    """Runs of three seeds at 4, 16 and as many shots as fit (20)."""
    generator = np.random.default_rng(seed)
    runs = []
    for data in datasets:
        for method in methods:
            for asked in (4, 16, None):
                for run_seed in range(3):
                    values = tuple((generator.random(30) < 0.5).astype(float).tolist())
                    golds = ("a", "b") * 15
                    predictions = tuple(
                        gold if value else "c" for gold, value in zip(golds, values, strict=True)
                    )
                    evaluation = Evaluation(
                        "tiny", "prompt", "accuracy", golds, predictions, values, cost=0.5, seconds=2.0
                    )
                    runs.append(
                        Run(
                            data=data,
                            method=method,
                            shots=asked or 20,
                            seed=run_seed,
                            evaluation=evaluation,
                            tokens=100,
                            label_kl=float(generator.random()),
                            select_seconds=0.0 if method == "random" else 3.0,
                            asked=asked,
                        )
                    )
    return Comparison(tuple(runs), {"shots": [4, 16, "max"]}, ("first <b>: 2 rows were left out",))


def requests_of(driver, page):
    """The addresses that a page has asked for since it was opened, its own first."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"] for request in asked if request["documentURL"] == page]
