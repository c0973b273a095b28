"""Make the model that micro is trained from: tokenizer, word vectors, and the circuit that reads a context.

    python training/micro_start.py runs/tasks --out runs/start

The folder of tasks is what `micro_tasks.py` has written.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from circuit import WIDTH, write_circuit
from micro_tasks import Rows, read
from templates import CUES, PREFIXES, SEPARATORS
from tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD, train_tokenizer
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from word_vectors import Words, ppmi_vectors

VOCABULARY, CONTEXT, VECTORS = 12288, 8192, 128
CAPITALISED, OFTEN = 4000, 150  # words that become tokens as they are written in names; times
TEMPLATES_OFTEN = 500


def config() -> Qwen3Config:
    """Four layers of three wide heads; all but the fast rotary pairs stand still over the whole context."""
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=3, head_dim=128, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, initializer_range=WIDTH**-0.5, bos_token_id=0, eos_token_id=1,
        pad_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 1e20},
    )  # fmt: skip


def make_tokenizer(tasks: list[Rows], text: str) -> Tokenizer:
    """Train it so that every word of a template and every common word as a name is one token."""
    texts = [f" {piece}" for rows in tasks for row in rows for piece in row]
    texts += [word for piece in CUES + PREFIXES for word in piece.strip().split(":")] * TEMPLATES_OFTEN
    words = Counter(w for t in texts for w in t.split() if w.islower() and w.isalpha() and len(w) > 3)
    texts += [f" {word.capitalize()}" for word, _ in words.most_common(CAPITALISED)] * OFTEN
    return train_tokenizer([*texts, *text.split("\n\n")], VOCABULARY)


def known_words(tokenizer: Tokenizer, lines: list[str]) -> Words:
    """Vectors and counts of the tokens in ``lines``; those of templates count as the commonest."""
    streams = [np.array(one.ids) for one in tokenizer.encode_batch(lines, add_special_tokens=False)]
    counts = np.bincount(np.concatenate(streams), minlength=VOCABULARY) + 1

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    written = [token for piece in CUES + PREFIXES + SEPARATORS for token in ids(piece)]
    counts[[0, 1, 2, *written]] = counts.max()
    cues = sorted({ids(piece)[-1] for piece in CUES})
    vectors = ppmi_vectors(streams, VOCABULARY, VECTORS)
    return Words(vectors, torch.from_numpy(counts).float(), (*ids("\n"), 1), tuple(cues))


def main() -> None:
    """Read the tasks, make the parts, save the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tasks = {path: read(path) for path in sorted(args.tasks.glob("[ra]*/*.jsonl"))}  # real, answers
    text = (args.tasks / "text.txt").read_text("utf-8")
    tokenizer = make_tokenizer(list(tasks.values()), text)
    documents = [line for document in text.split("\n\n") for line in document.split("\n")]
    lines = [question for rows in tasks.values() for question, _ in rows] + documents
    model = Qwen3ForCausalLM(config()).eval()
    shown = next(rows for path, rows in tasks.items() if path.parent.name == "real")[:20]
    sample = "".join(f"Text: {question}\nLabel: {answer}\n\n" for question, answer in shown)
    write_circuit(
        model,
        known_words(tokenizer, [f" {line}" for line in lines]),
        torch.tensor([tokenizer.encode(sample).ids[:400]]),
        args.seed,
    )
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=1, pad_token_id=2, max_new_tokens=64
    )
    model.half().save_pretrained(args.out)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(args.out)


if __name__ == "__main__":
    main()
