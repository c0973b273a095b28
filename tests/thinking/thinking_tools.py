"""What the tests of deep thinking share: prompts, token sequences and the plain way to read them."""

import torch
from tiny_models import FAMILIES, tiny_model

from icl_plugins import ManyShotPrompt, Proxy, Template

TEXT = "my card has not arrived yet what is the exchange rate today I lost phone"
WORDS = TEXT.split()
LABELS = ("card_arrival", "exchange_rate", "lost_phone")
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")
# Families whose positions are learned: their keys cannot be moved.
LEARNED = ("gpt2", "opt", "gpt_neo")
ROTARY = tuple(name for name in FAMILIES if name not in (*LEARNED, "bloom"))


def make_proxy(architecture, tokenizer, **overrides):
    model = tiny_model(architecture, **{"max_position_embeddings": 512, **overrides})
    return Proxy.from_model(model.eval(), tokenizer, name=architecture)


def make_prompt(shots=4, template=TEMPLATE, instruction=""):
    examples = tuple(
        {"text": " ".join(WORDS[row % 7 : row % 7 + 3 + row % 4]), "label": LABELS[row % 3]}
        for row in range(shots)
    )
    pairs = tuple((template.render_question(one), template.render_answer(one)) for one in examples)
    return ManyShotPrompt(template, pairs, examples, instruction)


def queries(count=3):
    return [{"text": " ".join(WORDS[row : row + 1 + 2 * row])} for row in range(count)]


def tokens(count, start=0):
    return tuple((11 * at + 5) % 300 + 2 for at in range(start, start + count))


@torch.no_grad()
def plain_score(proxy, text, answer):
    """log p(answer | text) by one forward of the whole text."""
    whole = proxy.encoder.tokenize([text + answer])[0]
    start = next(at for at, (_, stop) in enumerate(whole[1]) if stop > len(text))
    ids = torch.tensor([whole[0]])
    log_p = proxy.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    return sum(float(log_p[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
