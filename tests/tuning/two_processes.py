"""A run that two processes do together; its folder is the argument."""

import sys

from tiny_models import tiny_tokenizer
from tuning_tools import make_proxy, make_task, settings


def run(out, **given):
    """Train all weights; one process accumulates what two share."""
    proxy = make_proxy("llama", tiny_tokenizer())
    return settings(proxy, steps=3, lora_rank=None, **given).fit([make_task()], out)


if __name__ == "__main__":
    run(sys.argv[1])
