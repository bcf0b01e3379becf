"""What is said of components: in the terminal, in the JSON document and in the report."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from homotopy_cli.cli.document import components as as_document
from homotopy_cli.cli.sentences import component_sentences
from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import (
    AttentionComponent,
    Components,
    CrossEntropyComponent,
    NormComponent,
)
from homotopy_cli.report.figures.components import components_panel
from homotopy_cli.runlog.reader import RunLog

FOUND = Components(
    attention=(
        AttentionComponent("a", 2.0, 0.5, 0.25, 2, (2.0, 1.0), (0.5, 0.5), math.exp(4)),
        AttentionComponent("b", 3.0, 1.5, 0.75, 2, (1.0, 3.0), (1.5, 1.5), math.exp(6)),
    ),
    norm=(NormComponent("n", "LayerNorm", 0.5, 0.6, 4e-5, 4.0),),
    cross_entropy=CrossEntropyComponent(0.125, 0.2, 0.25, 1.5, 9.0, 8.0),
    notes=("m is hidden",),
)


def test_the_terminal_names_the_place_and_says_what_the_founding_formulas_are_worth():
    attention, norm, output, seed, note = component_sentences(FOUND)
    assert attention == (
        "Attention: largest logit 3.00 in b, head 1; lowest mean entropy 0.500 nats "
        "(25% of uniform) in a."
    )
    assert norm == "Norms: smallest σ 0.500 in n (ε/σ² 4.0e-05)."
    assert output.startswith("Output: smallest target probability 0.125")
    assert seed.startswith("seed_kappa e^(2·logit) = 403, 1/σ² = 4.0, 1/p = 8.0: symptoms to")
    assert "norm at most 1/2" in seed
    assert note == "Components: m is hidden."


def test_nothing_there_is_nothing_said():
    assert component_sentences(Components()) == component_sentences(None) == []


def test_a_formula_without_a_number_is_left_out():
    """e^(2·logit) above 1e308 is no number."""
    site = AttentionComponent("a", 400.0, 0.0, 0.0, 1, (400.0,), (0.0,), None)
    assert len(component_sentences(Components(attention=(site,)))) == 1


def test_the_document_is_strict_json_and_carries_the_note():
    norm = replace(FOUND.norm[0], sigma_min=0.0, eps_over_var=math.inf, seed_kappa=None)
    made = json.loads(json.dumps(as_document(replace(FOUND, norm=(norm,))), allow_nan=False))
    assert made["norm"][0]["eps_over_var"] is None
    assert made["attention"][1]["head_max_logit"] == [1.0, 3.0]
    assert made["notes"] == ["m is hidden"]
    assert made["seed_kappa_note"].startswith("e^(2 max_logit), 1/sigma_min², 1/p_min: symptoms")


def test_the_report_gives_the_founding_formulas_at_the_end_of_the_run():
    columns = {"attention_max_logit": [9.0, 2.0], "norm_sigma_min": [1.0, 0.5], "p_min": [0.5, 0.1]}
    log = replace(
        RunLog.empty(),
        probe_step=np.array([0, 10]),
        probes={name: np.array(values) for name, values in columns.items()},
    )
    (note,) = components_panel(log).notes
    assert note.startswith("At the end seed_kappa is e^(2·logit) 55, 1/σ² 4 and 1/p 10: symptoms")


def test_half_of_the_jacobians_norm_is_the_most_there_is():
    """The sentence's claim: ‖diag(p) - pp'‖ ≤ 1/2, reached by two equal classes."""
    torch.manual_seed(0)
    largest = 0.0
    for scale in (0.1, 1.0, 10.0, 100.0):
        p = (scale * torch.randn(50, 6, dtype=torch.float64)).softmax(-1)
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        largest = max(largest, torch.linalg.eigvalsh(hessian).abs().max().item())
    assert largest <= 0.5 + 1e-12
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    top = torch.linalg.eigvalsh(half.diag() - torch.outer(half, half))[-1].item()
    assert top == pytest.approx(0.5)


def test_a_probe_of_a_real_model_says_all_lines():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 3)
    )
    batch = (torch.randn(4, 5, 8), torch.randint(3, (4,)))
    lines = component_sentences(measure_components(Problem.from_module(model, None, [batch])))
    assert [line.split()[0] for line in lines] == ["Attention:", "Norms:", "Output:", "seed_kappa"]
    assert "0.self_attn, head" in lines[0]
