"""Drawing rows: which task, which of its examples in which order, under which names, how many."""

import re
from collections.abc import Sequence as Items

import numpy as np

from icl_plugins.proxy.encoding import TextEncoder
from icl_plugins.tuning.names import other_names
from icl_plugins.tuning.sequences import Sequence, Shown, encode
from icl_plugins.tuning.stage import Stage
from icl_plugins.tuning.tasks import Task

_SPARE = 1 / 8  # of a row: less room than this is left empty
_CHARACTERS = 8  # a token has no more of, but for rare ones: as much text is cut to be tokenized
_PLAIN = 1024  # tokens of a piece of plain text: each of them has logits
_SPACE, _WORD = re.compile(r"\s"), 32  # characters in which the next word begins
_MARGIN = 1.2  # more examples are tokenized than are expected to fit


class Drawer:
    """Draws the rows of a stage; all randomness comes from the generator that is given for each.

    tokens: (N,) of each task, of every example with its separator, in its own template and names.
    """

    def __init__(
        self,
        stage: Stage,
        tasks: Items[Task],
        documents: Items[str],
        words: Items[str],
        encoder: TextEncoder,
        tokens: Items[np.ndarray],
    ) -> None:
        self.stage, self.tasks, self.documents, self.words = stage, tasks, documents, words
        self.encoder, self.tokens = encoder, tokens
        self.ends = np.cumsum([len(text) for text in documents])
        self.odds = stage.odds(tasks)

    def row(self, rng: np.random.Generator) -> list[Sequence]:
        """Return the sequences of a row, together at most ``context`` tokens; one, unless they are packed.

        The room that is left where the next one that is drawn does not fit stays empty: to draw again would
        favour tasks of short examples.
        """
        sequences: list[Sequence] = []
        room = self.stage.context
        while room > self.stage.context * _SPARE:
            drawn = self._sequence(rng, room)
            if drawn is None:
                break
            sequences.append(drawn)
            room -= len(drawn.ids)
            if not self.stage.pack:
                break
        return sequences

    def _sequence(self, rng: np.random.Generator, room: int) -> Sequence | None:
        way = rng.random()
        if way < self.stage.plain:
            return self._plain(rng, room)
        alone = way < self.stage.plain + self.stage.zero_shot
        at = int(rng.choice(len(self.tasks), p=self.odds))
        task, rows = self.tasks[at], self._rows(at, rng, room, alone)
        shown = self._shown(task, rows, rng)
        fits = encode(self.encoder, shown, room, task.name)
        if fits is None and room == self.stage.context:  # longer names, or a template that is longer
            shown = _as_counted(task, rows)
            fits = encode(self.encoder, shown, room, task.name)
        return fits if fits is None or alone else self._shortened(shown, fits, rng, room)

    def _plain(self, rng: np.random.Generator, room: int) -> Sequence:
        """Return a piece of a document, drawn by length, from the beginning of a word where one is near."""
        place = int(rng.integers(self.ends[-1]))
        at = int(np.searchsorted(self.ends, place, side="right"))
        text, length = self.documents[at], min(room, _PLAIN)
        start = min(place - int(self.ends[at]) + len(text), max(0, len(text) - length))
        if start:
            space = _SPACE.search(text, start, start + _WORD)
            start = space.end() if space else start
        ids = self.encoder.tokenize([text[start : start + _CHARACTERS * length]])[0][0]
        return Sequence(ids[:length])

    def _rows(self, at: int, rng: np.random.Generator, room: int, alone: bool) -> np.ndarray:
        """Return rows in the order in which they are shown, about as many as fit."""
        task, classes = self.tasks[at], self.stage.classes
        if task.classes and classes is not None:
            order = _balanced(task, classes, rng)
        else:
            order = rng.permutation(len(task.pool))
        if alone:
            return order[:1]
        fit = int(np.searchsorted(self.tokens[at][order].cumsum(), room * _MARGIN)) + 1
        return order[:fit]

    def _shown(self, task: Task, rows: np.ndarray, rng: np.random.Generator) -> Shown:
        template = task.ways[rng.integers(len(task.ways))]
        examples = [task.pool.examples[row] for row in rows]
        questions = [template.render_question(example) for example in examples]
        factors = [task.weight] * len(examples)
        renamed = task.classes and len(rows) > 1  # nothing could tell another name of one example alone
        if not (renamed and rng.random() < self.stage.other_names):
            answers = [template.render_answer(example) for example in examples]
            return Shown(questions, answers, template, factors)
        own = [template.answer_values(example)[0] for example in examples]
        present = list(dict.fromkeys(own))
        other = dict(zip(present, other_names(present, self.words, rng), strict=True))
        for name in present:
            factors[own.index(name)] *= self.stage.unseen
        answers = [template.write_answer((other[name],)) for name in own]
        return Shown(questions, answers, template, factors)

    def _shortened(self, shown: Shown, fits: Sequence, rng: np.random.Generator, room: int) -> Sequence:
        """Return the sequence with the number of examples that is drawn from 1 to all that fit."""
        most = len(fits.answers)
        if self.stage.shots == "full":
            return fits
        logarithmic = self.stage.shots == "log"
        count = int(most ** rng.random() + 0.5) if logarithmic else int(rng.integers(1, most + 1))
        if count == most:
            return fits
        return encode(self.encoder, shown.first(count), room, fits.task) or fits


def _as_counted(task: Task, rows: np.ndarray) -> Shown:
    """Return the examples in their own template and names, which is known to fit."""
    questions = [task.pool.questions[row] for row in rows]
    answers = [task.pool.answers[row] for row in rows]
    return Shown(questions, answers, task.pool.template, [task.weight] * len(rows))


def _balanced(task: Task, classes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return all rows of some classes; at each place every class that has rows left is as likely."""
    least, most = (min(bound, len(task.names)) for bound in classes)
    chosen = rng.choice(len(task.names), int(rng.integers(least, most + 1)), replace=False)
    rows = [rng.permutation(task.rows_of[task.names[at]]) for at in chosen]
    # Merged Poisson processes of the same rate: the next event is of each with the same probability.
    times = [rng.exponential(size=len(of_class)).cumsum() for of_class in rows]
    return np.concatenate(rows)[np.concatenate(times).argsort()]
