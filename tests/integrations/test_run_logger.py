"""RunLogger: a loop of one's own -> run.h5 -> report, gates and comparison."""

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR, PerLayerHomotopyLR, Problem, RunLogger, read_log
from homotopy_cli.cli.app import run
from homotopy_cli.errors import LogError
from homotopy_cli.integrations.loop import layers_of
from homotopy_cli.problems.partition import Partition

STEPS = 30


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def batches(n=STEPS):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        x = torch.randn(16, 6, generator=generator)
        yield x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def made(lr=0.5, kind=HomotopyLR, **settings):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    settings = {"total_steps": STEPS, "budget": float("inf")} | settings
    return model, optimizer, kind(optimizer, model, nn.CrossEntropyLoss(), **settings)


def loop(log, model, optimizer, scheduler, data, *, before=False, every=1):
    """Returns the rate of every step."""
    used = []
    for i, (x, y) in enumerate(data):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        scheduler.update_curvature(x, y, loss=loss, grad_norm=norm)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if before:
            scheduler.step()
        if i % every == every - 1:
            log.step(loss, grad_norm=norm)
        if not before:
            scheduler.step()
    return used


@pytest.mark.parametrize("before", [False, True])
def test_every_step_has_the_rates_that_it_used(tmp_path, before):
    model, optimizer, scheduler = made()
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler, seed=3) as log:
        log.evaluate(1.5)
        used = loop(log, model, optimizer, scheduler, batches(), before=before)
        log.evaluate(loss=torch.tensor(0.5), metric=0.75)
    found = read_log(tmp_path / "run.h5")
    assert found.status == "finished"
    assert found.step.tolist() == list(range(STEPS))
    assert found.steps["lr"].tolist() == used
    assert found.steps["schedule_lr"].tolist() == [0.5] * STEPS
    held = found.steps["lr"] < 0.5
    assert held.any() and (found.steps["lr_reason"][held] > 0).all()
    assert (found.steps["ceiling_lr"] >= found.steps["lr"] * (1 - 1e-12)).all()
    for name in ("loss", "grad_norm", "wall_time", "step_seconds"):
        assert np.isfinite(found.steps[name]).all(), name
    assert found.probe_step.tolist()[:4] == [0, 1, 2, 4]
    assert len(found.probe_step) == scheduler.n_probes
    assert np.isfinite(found.probes["edge_ratio"]).all()
    assert {"SIGNAL", "CEILING_ON"} <= {e.code for e in found.events}
    assert scheduler.events == []
    assert (found.eval_step.tolist(), found.evals["eval_loss"].tolist()) == ([0, STEPS], [1.5, 0.5])
    kept = found.provenance
    assert (kept["seed"], kept["n_params"]) == (3, sum(p.numel() for p in model.parameters()))
    assert kept["recipe_resolved"]["optimizer"]["name"] == "adamw"
    assert kept["recipe_resolved"]["optimizer"]["lr"] == 0.5
    assert kept["recipe_resolved"]["scheduler"] == {"name": "HomotopyLR"}
    assert kept["environment"]["torch"] == torch.__version__


def test_logging_changes_nothing_of_the_run(tmp_path):
    weights = []
    for path in (None, tmp_path / "run.h5"):
        model, optimizer, scheduler = made()
        log = RunLogger(path, scheduler=scheduler) if path else None
        loop(log or Nothing(), model, optimizer, scheduler, batches())
        if log:
            log.close()
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Nothing:
    def step(self, loss, **columns):
        pass


def test_the_page_the_gates_and_a_comparison(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, lr in (("a", 0.5), ("b", 0.01)):
        model, optimizer, scheduler = made(lr)
        with RunLogger(f"{name}/run.h5", scheduler=scheduler) as log:
            loop(log, model, optimizer, scheduler, batches())
            log.evaluate(0.9)
    assert run(["report", "a/run.h5", "--fail-on", "val_loss > 1"]) == 0
    assert run(["report", "a/run.h5", "--fail-on", "val_loss > 0.1"]) == 1
    page = (tmp_path / "a" / "run.html").read_text(encoding="utf-8")
    assert "edge of stability" in page and "AdamW" in page.replace("adamw", "AdamW")
    gate = "val_loss > baseline.val_loss * 1.02"
    assert run(["report", "a/run.h5", "--baseline", "b/run.h5", "--fail-on", gate]) == 0
    assert run(["report", "a/run.h5", "b/run.h5", "--out", "both.html"]) == 0
    both = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "optimizer.lr" in both
    capsys.readouterr()


def test_a_row_for_some_steps_keeps_their_numbers_and_every_probe(tmp_path):
    model, optimizer, scheduler = made()
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        used = loop(log, model, optimizer, scheduler, batches(), every=10)
    found = read_log(tmp_path / "run.h5")
    assert found.step.tolist() == [9, 19, 29]
    assert found.steps["lr"].tolist() == [used[i] for i in (9, 19, 29)]
    assert len(found.probe_step) == scheduler.n_probes


def test_a_torch_scheduler_has_a_log_too(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    used = []
    with RunLogger(tmp_path / "run.h5", scheduler=schedule, settings={"steps": STEPS}) as log:
        for x, y in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            log.step(loss.detach(), update_rms=0.5)
    found = read_log(tmp_path / "run.h5")
    assert found.steps["lr"].tolist() == used
    assert found.steps["update_rms"].tolist() == [0.5] * STEPS
    assert found.provenance["recipe_resolved"]["steps"] == STEPS


def test_layers_are_those_of_a_partition_and_their_probes_are_kept(tmp_path):
    model, optimizer, scheduler = made(kind=HomotopyLR, layers_freq=5)
    x, y = next(batches())
    blocks = Partition.by_module(Problem.from_module(model, "cross_entropy", [(x, y)])).blocks
    named = dict(model.named_parameters())
    assert layers_of(model) == {
        b.name: (sum(named[p].numel() for p in b.params), b.kind) for b in blocks
    }
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        loop(log, model, optimizer, scheduler, batches())
    found = read_log(tmp_path / "run.h5")
    assert found.layers == ("0", "1", "3")
    assert np.isfinite(found.layer_values["layer_grad_norm"]).any()


def test_groups_split_by_layers_log_too(tmp_path):
    model, optimizer, scheduler = made(kind=PerLayerHomotopyLR)
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        loop(log, model, optimizer, scheduler, batches(5))
    assert read_log(tmp_path / "run.h5").step.tolist() == list(range(5))


def test_a_step_that_a_scaler_skips_has_no_row(tmp_path):
    model, optimizer, scheduler = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        for i, (x, y) in enumerate(batches(4)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * (float("inf") if i == 1 else 1.0)).backward()
            scaler.unscale_(optimizer)
            scheduler.update_curvature(x, y)
            scaler.step(optimizer)
            scaler.update()
            log.step(loss)
            scheduler.step()
    assert read_log(tmp_path / "run.h5").step.tolist() == [0, 1, 2]


def test_the_log_goes_on_after_a_step_that_raises(tmp_path, monkeypatch):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def out_of_memory(*_):
        raise RuntimeError("out of memory")

    with RunLogger(tmp_path / "run.h5", optimizer=optimizer) as log:
        for i, (x, y) in enumerate(batches(8)):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            with monkeypatch.context() as patched:
                if i == 2:
                    patched.setattr(optimizer, "_init_group", out_of_memory)
                    with pytest.raises(RuntimeError, match="memory"):
                        optimizer.step()
                    log.event("OUT_OF_MEMORY", "the step was left out")
                    continue
                optimizer.step()
            log.step(loss)
    assert read_log(tmp_path / "run.h5").step.tolist() == list(range(7))


def test_how_a_run_ends_is_in_the_log(tmp_path):
    ends = {}
    for name, error in (("interrupted", KeyboardInterrupt), ("diverged", None)):
        model, optimizer, scheduler = made()
        log = RunLogger(tmp_path / f"{name}.h5", scheduler=scheduler)
        with pytest.raises(KeyboardInterrupt) if error else warnings.catch_warnings(), log:
            loop(log, model, optimizer, scheduler, batches(3))
            if error:
                raise error
            optimizer.step()
            log.step(float("nan"))
        ends[name] = read_log(log.path).status
    assert ends == {"interrupted": "interrupted", "diverged": "diverged"}


def test_a_log_that_is_there_is_refused_replaced_or_continued(tmp_path):
    path = tmp_path / "run.h5"
    model, optimizer, scheduler = made()
    with RunLogger(path, scheduler=scheduler) as log:
        loop(log, model, optimizer, scheduler, batches(6))
    with pytest.raises(LogError, match="exists already") as caught:
        RunLogger(path, scheduler=scheduler)
    assert caught.value.hint == "overwrite=True replaces a log, resume=N continues it after N steps"
    with RunLogger(path, scheduler=scheduler, resume=4) as log:
        assert log.n_steps == 4
        loop(log, model, optimizer, scheduler, batches(3))
    found = read_log(path)
    assert found.step.tolist() == list(range(7)) and "RESUMED" in {e.code for e in found.events}
    with RunLogger(path, scheduler=scheduler, overwrite=True) as log:
        loop(log, model, optimizer, scheduler, batches(2))
    assert read_log(path).step.tolist() == [0, 1]


def test_a_wrong_column_is_named(tmp_path):
    model, optimizer, scheduler = made()
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        loop(log, model, optimizer, scheduler, batches(1))
        optimizer.step()
        with pytest.raises(ValueError, match="'accuracy' is not a column of the log; known: loss,"):
            log.step(1.0, accuracy=0.5)
    with pytest.raises(TypeError, match="scheduler= or optimizer="):
        RunLogger(tmp_path / "other.h5")


def test_failing_probes_are_still_warned_of(tmp_path):
    model, optimizer, scheduler = made()
    with RunLogger(tmp_path / "run.h5", scheduler=scheduler) as log:
        loop(log, model, optimizer, scheduler, batches(4))
        x, y = next(batches())
        nn.functional.cross_entropy(model(x), y).backward()
        with pytest.warns(UserWarning, match="a curvature probe failed"):
            scheduler.update_curvature(x * float("nan"), y)
    assert "PROBE_FAILED" in {e.code for e in read_log(tmp_path / "run.h5").events}


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from test_run_logger import *
model, optimizer, scheduler = made(total_steps=500)
log = RunLogger({path!r}, scheduler=scheduler)
loop(log, model, optimizer, scheduler, batches(120))
print(log.n_steps, scheduler.n_probes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_row(tmp_path):
    path = tmp_path / "run.h5"
    code = KILLED.format(paths=[str(Path(__file__).parent), *sys.path], path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps, probes = (int(word) for word in done.stdout.split())
    found = read_log(path)
    assert found.status == "running" and steps == 120
    assert found.step.tolist() == list(range(steps)) and len(found.probe_step) == probes
    assert run(["report", str(path), "--fail-on", "nonfinite > 0"]) == 0


def test_of_several_groups_the_largest_rate_is_logged(tmp_path):
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[3].parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    with RunLogger(tmp_path / "run.h5", optimizer=optimizer) as log:
        for x, y in batches(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            log.step(loss=loss)
    assert list(read_log(tmp_path / "run.h5").steps["lr"]) == [1e-2, 1e-2]
