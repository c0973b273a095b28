"""A model that reads a context before it is trained: the circuit, written into the weights of a Qwen3.

From a plain random start a small model spends nearly all of its steps on finding this circuit. It can be
written down. Where examples look like "text <newline> Label: name <newline> <newline>":

* layer 0: every token looks at the token before (was it a newline, a colon, which word?), and makes a code
  of the words around it;
* layer 1: every token takes the code of the last empty line before it: tokens of one example have the same
  code, those of another example another one. The first token of a name tells itself by a newline three
  tokens before and a colon right before;
* layer 2: every token gathers the words of its own example, the rare ones most, and takes off what is usual
  in the context; it learns the word before the one before;
* layer 3: one head looks for names whose example gathered like words and copies them; the other goes on
  where a name of several tokens was begun (induction, Olsson et al. 2022), after the same two words and
  rather in an example that is alike. The third head is free.

Queries and keys are normed in Qwen3, so that what is compared is a cosine. All weights are small random
numbers besides, and training is free to leave the circuit (mimetic initialisation, Trockman and Kolter
2023).
"""

import torch
from heads import CONTENT, HEAD, Head, orthonormal, set_norms
from torch import Tensor
from torch.nn.functional import normalize
from transformers import Qwen3ForCausalLM
from word_vectors import Words

# Where things stand in the residual stream.
WIDTH = 224
WORD, GATHERED = slice(0, 92), slice(96, 188)
WORD_BEFORE, TWO_BEFORE = slice(192, 208), slice(208, 224)
AROUND, SEGMENT = slice(96, 142), slice(142, 188)  # of layers 0 and 1, where is gathered later
ONE, RARE, NEWLINE, CUE, AFTER_NEWLINE, NAME_PLACE, NAME, AFTER_CUE = 92, 93, 94, 95, 188, 189, 190, 191

ONE_IS, RARE_IS, MARK_IS = 0.45, 0.15, 0.3  # how large these are
NOISE = 0.3  # of word vectors, so that words without one differ
OTHERS = 0.02  # what is left of the random weights beside the circuit
# Nats of each rotary pair, from the fastest on: a window of one token; the last of many; a few tokens.
EXACTLY = (14.0, 8.0, 6.0, *[2.0] * 10)
LATEST = (0.0, 0.0, 0.0, 2.0, 3.0, 4.5, 6.75, 10.0, 15.0, 23.0)
AROUND_HERE = (0.0, 0.0, 0.0, *[3.0] * 10)
NOT_FAR = (0.0, 0.0, 0.0, 0.0, *[1.0] * 9)


@torch.no_grad()
def write_circuit(model: Qwen3ForCausalLM, words: Words, sample: Tensor, seed: int = 0) -> None:
    """Write the circuit into a freshly made model; sample: (1, L), a prompt on which lengths are measured."""
    circuit = Circuit(model, sample, torch.Generator().manual_seed(seed))
    circuit.embed(words)
    circuit.quieten()
    known = orthonormal(16, WORD.stop, circuit.generator)  # of a word, enough to know it again
    circuit.look_back(known, float(words.weights.log().std()))
    circuit.find_segments()
    circuit.gather(float(words.weights.log().std()))
    circuit.answer(known)


class Circuit:
    """Writes layer by layer, since a layer's sizes are measured on what those below it do."""

    def __init__(self, model: Qwen3ForCausalLM, sample: Tensor, generator: torch.Generator) -> None:
        self.model, self.sample, self.generator = model, sample, generator
        self.layers = model.model.layers

    def embed(self, words: Words) -> None:
        """Tokens of length one: the word, an axis that is one everywhere, rarity, and marks.

        Words are centred as they are gathered, or all that is gathered would look alike; their first two
        directions tell frequency and are left out. Tokens without a vector are random ones, each its own.
        """
        known = words.vectors.any(dim=1)
        centred = (words.vectors - words.vectors[known].mean(0)) * known[:, None]
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[2 : 2 + WORD.stop]
        meaning = normalize(centred @ directions.T, dim=1)
        random = torch.randn(meaning.shape, generator=self.generator)
        meaning = normalize(meaning + NOISE * normalize(random, dim=1), dim=1)
        mass = (words.counts * words.weights)[:, None]
        meaning = normalize(meaning - (meaning * mass).sum(0) / mass.sum(), dim=1)
        rarity = words.weights.log()
        rarity = RARE_IS * ((rarity - rarity.mean()) / rarity.std()).clamp(-3.0, 3.0)
        table = torch.zeros(len(meaning), WIDTH)
        table[[words.bos, *words.newlines], NEWLINE] = MARK_IS
        table[list(words.cues), CUE], table[words.bos, CUE] = MARK_IS, -MARK_IS
        rest = (1 - ONE_IS**2 - rarity**2 - table[:, NEWLINE] ** 2).clamp_min(0.01).sqrt()
        table[:, WORD] = rest[:, None] * meaning
        table[list(words.newlines), WORD] = 0.8 * meaning[list(words.newlines)]  # they end names: likely
        table[words.bos, WORD] = 0.0  # where a head finds nothing, it looks there
        table[:, ONE], table[:, RARE] = ONE_IS, rarity
        self.model.get_input_embeddings().weight.copy_(table)

    def quieten(self) -> None:
        """Leave little of the random weights, and nothing of them that turns with position."""
        turning = torch.ones(self.model.config.head_dim, dtype=torch.bool)
        turning[CONTENT] = False
        for layer in self.layers:
            attention = layer.self_attn
            for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
                part.weight.mul_(OTHERS)
            for part in (attention.q_proj, attention.k_proj):
                part.weight.view(-1, len(turning), WIDTH)[:, turning] = 0.0
            layer.mlp.down_proj.weight.zero_()

    def look_back(self, known: Tensor, spread: float) -> None:
        """Layer 0: marks and word of the token before; a code of the words around."""
        set_norms(self.layers[0], positions=3.0, content=1.0, marks=10.0)
        unit = self.unit(0)
        before = self.head(0, 0)
        before.near(1.0, EXACTLY)
        before.carry(unit / MARK_IS * reads(NEWLINE), MARK_IS * reads(AFTER_NEWLINE).T)
        before.carry(unit / MARK_IS * reads(CUE), MARK_IS * reads(AFTER_CUE).T)
        before.carry(unit * known @ reads(WORD), 0.5 * reads(WORD_BEFORE).T)
        before.write()
        around = self.head(0, 1)
        around.near(0.0, AROUND_HERE)
        around.mark(2, marked(ONE), marked(RARE, RARE_IS), spread)
        code = orthonormal(AROUND.stop - AROUND.start, WORD.stop, self.generator)
        around.carry(unit * code @ reads(WORD), 0.5 * reads(AROUND).T)
        around.write()

    def find_segments(self) -> None:
        """Layer 1: the code of the last empty line is that of the example; where a name begins."""
        set_norms(self.layers[1], positions=3.5, content=1.0, marks=10.0)
        unit = self.unit(1)
        line = self.head(1, 0)
        line.near(0.0, LATEST)
        line.mark(3, marked(ONE), marked(NEWLINE, MARK_IS) + marked(AFTER_NEWLINE, MARK_IS), 40.0)
        line.carry(unit * reads(AROUND), reads(SEGMENT).T)
        line.write()
        place = self.head(1, 1)  # three behind the end of a line that is not empty
        place.near(3.0, EXACTLY)
        place.carry(unit / MARK_IS * (reads(NEWLINE) - reads(AFTER_NEWLINE)), MARK_IS * reads(NAME_PLACE).T)
        place.write()
        # Such a place, and behind a cue: two neurons that rise one after the other make a step, so that
        # the mark is the same where what it is made of is not quite.
        both = self.layers[1].mlp
        both.gate_proj.weight[:2] = both.up_proj.weight[:2] = 0.0
        both.gate_proj.weight[:2, [NAME_PLACE, AFTER_CUE]] = 40.0 * unit / MARK_IS
        both.gate_proj.weight[:2, ONE] = torch.tensor([-60.0, -68.0]) * unit / ONE_IS
        both.up_proj.weight[:2, ONE] = unit / ONE_IS
        both.down_proj.weight[NAME, :2] = torch.tensor([1.0, -1.0]) * MARK_IS / 8.0

    def gather(self, spread: float) -> None:
        """Layer 2: the words of the own example but for usual ones, rare ones most, names least."""
        length, energy = self.size(2, SEGMENT), 90.0
        set_norms(self.layers[2], positions=3.0, content=content_gain(60.0, energy), marks=10.0)
        own, usual = self.head(2, 0), self.head(2, 2)
        for head in (own, usual):
            head.mark(2, marked(ONE), marked(RARE, RARE_IS), spread)
            head.mark(4, marked(ONE), marked(NAME, MARK_IS), -6.0)
        own.near(0.0, NOT_FAR)
        own.alike(reads(SEGMENT) / length, reads(SEGMENT) / length, energy)
        own.carry(self.unit(2) * reads(WORD), 2.0 * reads(GATHERED).T)
        own.write(energy)
        usual.carry(self.unit(2) * reads(WORD), -1.4 * reads(GATHERED).T)
        usual.write()
        before = self.head(2, 1)
        before.near(1.0, EXACTLY)
        before.carry(self.unit(2) * reads(WORD_BEFORE), reads(TWO_BEFORE).T)
        before.write()

    def answer(self, known: Tensor) -> None:
        """Layer 3: behind a cue, names of examples that gathered alike; elsewhere, what followed before."""
        set_norms(self.layers[3], positions=1.0, content=content_gain(1.0, 3.0), marks=10.0)
        alike, gathered = self.head(3, 0), self.read(GATHERED)
        alike.alike(gathered, gathered, 75.0)
        alike.mark(4, marked(ONE), marked(ONE) - marked(NAME, MARK_IS), -60.0)
        alike.mark(5, marked(ONE) - marked(CUE, MARK_IS), -marked(CUE, MARK_IS), 130.0)
        follow = self.head(3, 1)
        word = known @ self.read(WORD) * (WORD.stop / len(known)) ** 0.5
        before, two_before = self.read(WORD_BEFORE), self.read(TWO_BEFORE)
        same = self.read(slice(GATHERED.start, GATHERED.start + HEAD // 2))
        now, last, example = torch.tensor([60.0, 30.0, 25.0]).div(115.0).sqrt()
        follow.alike(
            torch.cat((now * word, last * before, example * same)),
            torch.cat((now * before, last * two_before, example * same)),
            115.0,
        )
        follow.mark(5, marked(CUE, MARK_IS), -marked(CUE, MARK_IS), 30.0)
        for head, content in ((alike, 75.0), (follow, 115.0)):
            head.carry(self.unit(3) * reads(WORD), 3.0 * reads(WORD).T)
            head.write(content)
        norm = self.model.model.norm.weight
        norm.fill_(1.3)  # how sure the answers are
        norm[[ONE, RARE, NEWLINE, CUE]], norm[GATHERED.start :] = 0.05, 0.13

    def head(self, layer: int, number: int) -> Head:
        """A head to be written."""
        return Head(self.layers[layer], number, self.model.model.rotary_emb.inv_freq, ONE, ONE_IS)

    def size(self, layer: int, of: slice = slice(None)) -> float:
        """Mean length of some axes at a layer's input, on the sample."""
        states = self.model(self.sample, output_hidden_states=True).hidden_states[layer]
        return float(states[..., of].norm(dim=-1).mean())

    def read(self, axes: slice) -> Tensor:
        """Rows that read some axes at layer 3, together about of length one."""
        return reads(axes) / self.size(3, axes)

    def unit(self, layer: int) -> float:
        """What undoes a layer's norm."""
        return self.size(layer) / WIDTH**0.5


def reads(axes: int | slice) -> Tensor:
    """Rows (n, width) that read these axes as they are."""
    return torch.eye(WIDTH)[axes].reshape(-1, WIDTH)


def marked(axis: int, size: float = ONE_IS) -> Tensor:
    """A row (width,) that reads an axis, as much as ONE where it is ``size``."""
    return reads(axis)[0] * (ONE_IS / size)


def content_gain(nats: float, energy: float) -> float:
    """The norm's weight with which content of so much energy gives so many nats where it is the same."""
    return float((nats * HEAD**0.5 / energy) ** 0.5)
