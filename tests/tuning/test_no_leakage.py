"""No answer is seen before its place, and no sequence of a row by another."""

import pytest
import torch
from tuning_tools import all_nats, batch_of, numbers, settings

from icl_plugins.proxy.forward import frozen
from icl_plugins.tuning import Weighting
from icl_plugins.tuning.objective import logits_at, nats
from icl_plugins.tuning.packing import packs
from icl_plugins.tuning.sequences import Sequence

SPANS = [(5, 7), (12, 13), (18, 22), (27, 29)]
PACKING = ["llama", "gpt2", "mistral", "gemma3_text", "qwen3", "gpt_neox", "gpt_neo"]
TOGETHER = ["opt", "bloom"]  # they number positions, or weigh distances, by the place in the row


@torch.no_grad()
def losses(proxy, *rows, weighting=None):
    """Losses of all predictions of the rows, and the row and token of each."""
    batch = batch_of(*rows, weighting=weighting or Weighting(ends=False))
    with frozen(proxy.model):
        return nats(logits_at(proxy.model, batch), batch), batch["rows"], batch["positions"] + 1


def changed(sequence, start, stop):
    ids = list(sequence.ids)
    ids[start:stop] = [(token + 100) % 300 + 2 for token in ids[start:stop]]
    return Sequence(ids, sequence.answers, sequence.ends, sequence.factors, sequence.task)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3_text", "opt", "bloom"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_answer_changes_no_loss_before_it_and_its_own_and_later_ones(proxy_of, family, at):
    proxy, sequence = proxy_of(family), numbers(30, answers=SPANS)
    before, _, tokens = losses(proxy, sequence)
    after, _, _ = losses(proxy, changed(sequence, *SPANS[at]))
    early = tokens < SPANS[at][0]
    assert torch.equal(before[early], after[early])
    assert (before[~early] != after[~early]).all()


def row_of_three():
    return [
        numbers(30, answers=SPANS),
        numbers(17, 40, answers=[(4, 6), (13, 16)], task="other"),
        numbers(21, 90, answers=[(9, 10), (15, 18)], task="third"),
    ]


@pytest.mark.parametrize("family", PACKING)
def test_sequences_of_a_row_have_the_losses_that_they_have_alone(proxy_of, family):
    proxy, row = proxy_of(family), row_of_three()
    assert packs(proxy) == (True, "")
    together, rows, _ = losses(proxy, row, row[1], weighting=Weighting(targets="text"))
    alone = [all_nats(proxy.model, one.ids)[1:] for one in row]
    torch.testing.assert_close(together[rows == 0], torch.cat(alone).detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[rows == 1], alone[1].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", PACKING)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_one_task_says_changes_nothing_for_the_others(proxy_of, family, at):
    proxy, row = proxy_of(family), row_of_three()
    ends = torch.tensor([30, 47, 68])
    before, _, tokens = losses(proxy, row, weighting=Weighting(targets="text"))
    row[at] = changed(row[at], 0, len(row[at].ids))
    after, _, _ = losses(proxy, row, weighting=Weighting(targets="text"))
    mine = torch.bucketize(tokens, ends, right=True) == at
    assert torch.equal(before[~mine], after[~mine])
    assert not torch.equal(before[mine], after[mine])


@pytest.mark.parametrize("family", TOGETHER)
def test_a_model_that_mixes_packed_sequences_is_found_out(proxy_of, family):
    works, why = packs(proxy_of(family))
    assert not works
    assert "logits change" in why


def test_a_model_that_refuses_positions_is_found_out(proxy_of, monkeypatch):
    proxy = proxy_of()
    forward = type(proxy.model).forward

    def picky(self, input_ids=None, inputs_embeds=None, **kwargs):
        if "position_ids" in kwargs:
            raise ValueError("no positions, please")
        return forward(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(type(proxy.model), "forward", picky)
    assert packs(proxy) == (False, "ValueError: no positions, please")


@pytest.mark.parametrize(("family", "alone"), [("bloom", True), ("llama", False)])
def test_rows_then_hold_one_sequence_and_the_record_says_so(
    proxy_of, task, tmp_path, family, alone, monkeypatch
):
    from icl_plugins.tuning.drawing import Drawer

    drawn, row = [], Drawer.row
    monkeypatch.setattr(Drawer, "row", lambda self, rng: drawn.append(row(self, rng)) or drawn[-1])
    tuned = settings(proxy_of(family), steps=4).fit([task], tmp_path)
    assert (max(map(len, drawn)) == 1) == alone
    assert bool(tuned.record["notes"]) == alone
    assert all("one sequence each" in note for note in tuned.record["notes"])
