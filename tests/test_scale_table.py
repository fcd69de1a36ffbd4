"""The table of docs/scaling.md: its counting by hand, its networks, its page."""

import dataclasses
import unittest.mock
from pathlib import Path

import pytest
import torch

import scale_table
from flowwarp.legacy.models.gpt import GPT, PATCH, TINY
from flowwarp.train.optimizers import Muon

ROOT = Path(__file__).parents[1]


def test_flops_by_hand():
    """A product with a matrix of n numbers is 2 n FLOPs a row, and three times that both ways."""
    layer, x = torch.nn.Linear(5, 7), torch.rand(11, 5, requires_grad=True)
    assert scale_table.count(lambda: layer(x)) == 2 * 11 * 5 * 7
    assert scale_table.count(lambda: layer(x).sum().backward()) == 6 * 11 * 5 * 7
    q = torch.rand(2, 3, 13, 4, requires_grad=True)  # scores, and what they weigh
    attend = torch.nn.functional.scaled_dot_product_attention
    assert scale_table.count(lambda: attend(q, q, q, is_causal=True)) == 2 * 2 * (2 * 3 * 13**2 * 4)


def test_a_transformer_is_counted_without_its_memory():
    net, tokens = GPT(TINY), 4 * PATCH
    ids, places = torch.zeros(1, tokens, dtype=torch.int64), torch.zeros(1, tokens, 4)
    here = scale_table.count(lambda: net.features(ids, places).sum().backward())
    parameters, flops = scale_table.transformer_cost(TINY, tokens, 0)
    assert flops == pytest.approx(here, rel=1e-3)
    assert parameters == sum(p.numel() for p in net.parameters())
    logits = 3 * 2 * 3 * PATCH * TINY.inner_width * 10
    assert scale_table.transformer_cost(TINY, tokens, 10)[1] - flops == logits


def test_networks_have_the_sizes_of_their_names():
    for (name, config), wanted in zip(scale_table.LARGER.items(), (1e8, 3e8, 1e9), strict=True):
        parameters, _ = scale_table.transformer_cost(config, 8 * PATCH, 8)
        assert parameters == pytest.approx(wanted, rel=0.05), name
        assert config.head == 64


def test_computed_rows():
    config = scale_table.LARGER["100 M"]
    row = scale_table.on_paper("100 M", config, 64, 8)
    parameters, flops = scale_table.transformer_cost(config, 64, 8)
    assert row.flops == flops * scale_table.EXAMPLES
    assert row.steps == pytest.approx(20 * parameters / (256 * 64), abs=1)
    assert row.seconds == row.flops / (989e12 * 0.35)


def test_the_table_in_the_docs_is_of_these_networks():
    text = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    lines = text.splitlines()
    assert lines.count(scale_table.table([]).splitlines()[0]) == 2
    rows = [line.split("|") for line in lines if line.startswith("| gpt |")]
    sizes = {row[2].strip(): 1e6 * float(row[3].replace(",", "")) for row in rows}
    assert set(scale_table.LARGER) < set(sizes) <= {*scale_table.PRESETS, *scale_table.LARGER}
    for name, config in scale_table.LARGER.items():
        parameters = scale_table.transformer_cost(config, 2 * PATCH, 8)[0]
        assert sizes[name] == pytest.approx(parameters, rel=0.02)


def test_a_trainer_uses_its_own_optimizer():
    """Where the preset has Muon, it moves what the trainer names for it; captions are no tokens."""
    task, config = scale_table.captioner_task("tiny")
    config = dataclasses.replace(config, muon=0.35, batch_size=2)
    batch = task.batch(range(2))
    task = dataclasses.replace(task, batch=lambda _: {k: v[:2] for k, v in batch.items()})
    with unittest.mock.patch.object(Muon, "step") as step:
        row = scale_table.measure(task, config, "tiny", 1)
    assert step.called
    assert (row.network, row.tokens, row.examples) == ("captioner", None, 2)


def test_the_reviser_is_timed_as_its_preset_says():
    task, config = scale_table.reviser_task("tiny")
    batch = task.batch(range(1))
    assert task.name == "reviser"
    assert len(batch["shown"]) == config.batch_size
    assert 0.2 < batch["actor"].float().mean() < 0.3
    assert batch["told"].any()


def test_flow_is_timed_on_pairs_that_were_fitted():
    task, config = scale_table.flow_task("tiny")
    batch = task.batch(range(1))
    assert task.name == "flownet"
    assert batch["flow_12"].isfinite().any()
    assert "student1" in batch  # which the last step has
    assert len(batch["image1"]) == config.batch_size
