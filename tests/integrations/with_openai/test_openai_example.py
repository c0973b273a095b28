"""The example for the bare client runs as a person would run it, and ends with a number."""

import json
import re
import sys

import openai_deepseek


def test_the_example_ends_with_the_gain_over_random_shots(server, tmp_path, monkeypatch, capsys):
    data = tmp_path / "train.jsonl"
    rows = [
        {"text": f"question {row} of {row % 3}", "label": ("card", "rate", "phone")[row % 3]}
        for row in range(24)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    where = ["--base-url", server.base_url, "--model", server.model, "--data", str(data)]
    monkeypatch.setattr(sys, "argv", ["openai_deepseek.py", *where, "--shots=4", "--test=4", "--seeds=2"])
    openai_deepseek.main()
    *scores, size, last = capsys.readouterr().out.splitlines()
    assert len(scores) == 3 and size.startswith("4 of 20 examples, 4 queries")
    found = re.fullmatch(r"accuracy: gradient-matched (\S+), random (\S+), gain (\S+)", last)
    matched, random, gain = map(float, found.groups())
    assert abs(matched - random - gain) < 0.002
