"""The founding document's own code, as written, apart from the import's package name."""

import torch
from torch import nn

from homotopy_cli import (
    AdaptiveHomotopyLR,
    CurvatureAdaptiveLR,
    HomotopyAdam,
    HomotopyLR,
    Partition,
    PerLayerHomotopyLR,
    Problem,
    curvature_aware_clip,
    probe,
)


def ingredients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(40, 8, 6)
    dataloader = [(row, (row[:, 0] > 0).long() + (row[:, 1] > 0).long()) for row in x]
    return model, dataloader


def test_api_design(capsys):
    model, dataloader = ingredients()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    # Basic usage
    scheduler = HomotopyLR(
        optimizer, model, loss_fn=nn.CrossEntropyLoss(), base_lr=0.1, curvature_target=1e4
    )

    for _ in range(2):
        for batch_idx, (inputs, targets) in enumerate(dataloader):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()

            # Update curvature estimate (before step)
            scheduler.update_curvature(inputs, targets)

            optimizer.step()
            scheduler.step()

            if batch_idx % 20 == 0:
                print(
                    f"LR: {scheduler.get_lr()[0]:.6f}, Curvature: {scheduler.current_curvature:.2e}"
                )

    # With logging
    assert scheduler.plot_curvature_history().to_json()
    assert scheduler.plot_lr_history().to_json()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("LR: 0.100000, Curvature: ")
    assert "nan" not in lines[0]


def test_adaptive_in_the_same_loop():
    model, dataloader = ingredients()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = AdaptiveHomotopyLR(
        optimizer,
        model,
        nn.CrossEntropyLoss(),
        base_lr=0.01,
        warmup_steps=10,
        adaptation_rate=0.01,
    )
    assert scheduler.get_last_lr() == [0.001]
    for inputs, targets in dataloader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        scheduler.update_curvature(inputs, targets)
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.01]
    history = scheduler.curvature_history
    assert len(history) == scheduler.n_probes > 0
    assert all(kappa > 0.0 for kappa in history)
    assert history[-1] == scheduler.current_curvature
    history.clear()
    assert scheduler.curvature_history  # a copy


def test_per_layer_rates_and_curvatures():
    model, dataloader = ingredients()
    scheduler = PerLayerHomotopyLR(model, nn.CrossEntropyLoss(), base_lr=0.01)
    assert scheduler.layer_curvatures == {}
    inputs, targets = dataloader[0]
    nn.functional.cross_entropy(model(inputs), targets).backward()
    lrs = scheduler.get_per_layer_lr(inputs, targets)
    curvatures = scheduler.layer_curvatures
    assert lrs.keys() == curvatures.keys() == {"0", "2"}
    assert (lrs["0"] < lrs["2"]) == (curvatures["0"] > curvatures["2"])  # the sharper, the slower

    problem = Problem.from_module(model, "cross_entropy", [(inputs, targets)], mode="train")
    estimate = probe(problem, partition=Partition.by_module(problem))
    for block in estimate.blocks:  # SGD: P is I; the probe saw a slice of the rows
        assert 0.3 < curvatures[block.name] / block.lambda_max < 3.0

    again = PerLayerHomotopyLR(model, nn.CrossEntropyLoss(), base_lr=0.01)
    again.load_state_dict(scheduler.state_dict())
    assert again.layer_curvatures == curvatures


class Model(nn.Module):
    """`loss = model(batch)`, as on the founding text's first page."""

    def __init__(self):
        super().__init__()
        self.net, _ = ingredients()

    def forward(self, batch):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)


def test_first_page():
    model = Model()
    _, dataloader = ingredients()
    optimizer = torch.optim.AdamW(model.parameters())

    # Replace arbitrary schedules with curvature-based adaptation
    scheduler = CurvatureAdaptiveLR(
        optimizer, model, base_lr=1e-2, curvature_target=1e3, adaptation_rate=0.1
    )

    losses = []
    for batch in dataloader:
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()

        # Scheduler estimates curvature and adapts LR
        scheduler.step(loss)

        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])
    assert scheduler.current_curvature > 0.0


def test_advanced_features():
    from homotopy_cli import CurvatureEstimator, CurvatureWarmup

    model, dataloader = ingredients()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = HomotopyAdam(
        model.parameters(), lr=0.001, curvature_estimator=CurvatureEstimator(model, loss_fn)
    )
    warmup = CurvatureWarmup(optimizer, model, loss_fn, target_lr=0.001, warmup_steps=1000)
    for inputs, targets in dataloader[:4]:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        total = curvature_aware_clip(
            (p.grad for p in model.parameters()), optimizer.current_curvature, max_norm=1.0
        )
        assert total > 0.0
        lr = warmup.step(inputs, targets)
        assert 0.0 < lr <= 0.001
        optimizer.step(inputs=inputs, targets=targets)
