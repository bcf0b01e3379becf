"""`homotopy probe` on what other people save: the right number, or two lines and nothing written.

One trained MLP (reference case P01, kappa 4.19927241 from a dense Hessian) in every wrapping, and
every kind of damage. The command runs inside this process; only its surface is looked at.
"""

import argparse
import json
import shutil
import sys
import textwrap

import numpy as np
import pytest
import torch
from commands import bytes_of
from foreign_checkpoints import Evil, compiled, save
from oracles.reference_cases import reference
from safetensors.torch import save_file

from homotopy_cli.cli.app import run

KAPPA = 4.19927241
EMA_SCALE = 0.9
MODEL = """
    import torch.nn as nn
    import torch.nn.functional as F

    def build():
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss(model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y)
"""
PROBE = ("--model", "model.py:build", "--loss", "model.py:loss", "--dtype", "float64")
BRIEF = ("--layers", "none", "--no-trace", "--no-density", "--quiet")


@pytest.fixture
def case(tmp_path, monkeypatch, capsys):
    """A user's folder with model.py and batch.pt; calling it probes a file of it."""
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    torch.save(reference("P01").batches[0], tmp_path / "batch.pt")
    monkeypatch.chdir(tmp_path)
    return Case(tmp_path, capsys)


class Case:
    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.state = reference("P01").model.state_dict()

    def probe(self, name, *more, batch="batch.pt", flags=PROBE):
        """(exit code, the JSON document or None, stderr); the folder must keep its bytes."""
        before = bytes_of(self.folder)
        self.capsys.readouterr()
        code = run(["probe", name, *flags, "--batch", batch, *BRIEF, "--json", "-", *more])
        out, err = self.capsys.readouterr()
        assert bytes_of(self.folder) == before
        assert "Traceback" not in err
        return code, json.loads(out) if out else None, err

    def kappa(self, name, *more):
        code, found, err = self.probe(name, *more)
        assert code == 0, err
        return found["kappa"], found

    def refused(self, name, *more, **options):
        """The two lines of the error."""
        code, found, err = self.probe(name, *more, **options)
        assert code == 2 and found is None
        lines = err.splitlines()
        assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: ")
        return lines


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def lightning(case):
    content = {
        "state_dict": prefixed(case.state, "model."),
        "pytorch-lightning_version": "2.5.1",
        "hyper_parameters": {"lr": 1e-3},
        "epoch": 3,
        "global_step": 40,
    }
    save(case.folder / "epoch=3.ckpt", content)
    return "epoch=3.ckpt"


def ddp_of_compile(case):
    save(case.folder / "ckpt.pt", {"model": prefixed(case.state, "module._orig_mod.")})
    return "ckpt.pt"


def really_compiled(case):
    save(case.folder / "ckpt.pt", compiled(reference("P01").model).state_dict())
    return "ckpt.pt"


def safetensors(case):
    save_file(case.state, case.folder / "model.safetensors")
    return "model.safetensors"


def namespaced(case):
    args, best = argparse.Namespace(lr=0.1, arch="mlp"), np.float64(0.71)
    save(case.folder / "best.pth.tar", {"state_dict": case.state, "args": args, "best": best})
    return "best.pth.tar"


def scripted(case):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(reference("P01").model).save(str(case.folder / "model.pt"))
    return "model.pt"


def exported(case):
    program = torch.export.export(reference("P01").model, (torch.randn(4, 5),))
    torch.export.save(program, case.folder / "model.pt2")
    return "model.pt2"


def legacy(case):
    save(case.folder / "old.pth", {"net": case.state}, legacy=True)
    return "old.pth"


WRAPPINGS = {
    lightning: ('took the weights in "state_dict"', 'prefix "model." removed'),
    ddp_of_compile: ('took the weights in "model"', 'prefix "module._orig_mod." removed'),
    really_compiled: (),
    safetensors: (),
    namespaced: ("argparse.Namespace", "numpy scalar"),
    scripted: ("TorchScript archive", "its code was not loaded"),
    exported: ("torch.export archive", "its program was not run"),
    legacy: ('took the weights in "net"',),
}


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=lambda wrap: wrap.__name__)
def test_the_same_weights_give_the_same_kappa(case, wrap):
    kappa, found = case.kappa(wrap(case))
    assert kappa == pytest.approx(KAPPA, rel=1e-6)
    said = " ".join(found["checkpoint"]["notes"])
    for words in WRAPPINGS[wrap]:
        assert words in said


def test_two_sets_of_weights_are_told_and_either_can_be_taken(case):
    ema = {name: EMA_SCALE * tensor for name, tensor in case.state.items()}
    save(case.folder / "ckpt.pt", {"model": case.state, "ema": ema})
    save(case.folder / "alone.pt", ema)
    kappa, found = case.kappa("ckpt.pt")
    assert kappa == pytest.approx(KAPPA, rel=1e-6)
    assert (
        'took the weights in "model"; also there: "ema" (--entry NAME)'
        in found["checkpoint"]["notes"]
    )
    averaged, _ = case.kappa("ckpt.pt", "--entry", "ema")
    assert averaged == case.kappa("alone.pt")[0] != kappa


def test_a_pickled_module_needs_consent_and_its_class(case, monkeypatch):
    (case.folder / "zoo_of_probe.py").write_text(
        "import torch.nn as nn\n\nclass Net(nn.Sequential):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(case.folder))
    import zoo_of_probe

    save(case.folder / "model_full.pt", zoo_of_probe.Net(*reference("P01").model))
    error, hint = case.refused("model_full.pt")
    assert "pickled module of class zoo_of_probe.Net" in error and "--trust-pickle" in hint
    flags = ("--loss", "model.py:loss", "--dtype", "float64", "--trust-pickle")
    code, found, err = case.probe("model_full.pt", flags=flags)
    assert code == 0, err
    assert found["kappa"] == pytest.approx(KAPPA, rel=1e-6)
    sys.modules.pop("zoo_of_probe")


def test_a_cut_file(case):
    save(case.folder / "whole.pt", case.state)
    raw = (case.folder / "whole.pt").read_bytes()
    for share in (0.3, 0.98):
        (case.folder / "ckpt.pt").write_bytes(raw[: int(share * len(raw))])
        error, _ = case.refused("ckpt.pt")
        assert "truncated or incomplete" in error


def test_files_that_are_something_else(case):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    kinds = {
        "git-lfs pointer": pointer.encode(),
        "empty (0 bytes)": b"",
        "only zero bytes": bytes(4096),
        "HTML page": b"<!DOCTYPE html><html>",
    }
    for words, content in kinds.items():
        (case.folder / "ckpt.pt").write_bytes(content)
        assert words in case.refused("ckpt.pt")[0]


def test_a_hostile_pickle_does_nothing(case):
    mark = case.folder / "PWNED.txt"
    evil = Evil(exec, f"open({str(mark)!r}, 'w')")
    for legacy_format in (False, True):
        save(case.folder / "ckpt.pt", {"state_dict": case.state, "x": evil}, legacy=legacy_format)
        for more in ((), ("--dry-run",), ("--trust-code",), ("--entry", "state_dict")):
            error, _ = case.refused("ckpt.pt", *more)
            assert "builtins.exec" in error
            assert not mark.exists()


def test_empty_tensors_of_a_sharded_run(case):
    state = {name: t[:0] if t.dim() > 1 else t for name, t in case.state.items()}
    state = {n: torch.empty(0) if n.endswith("weight") else t for n, t in state.items()}
    save(case.folder / "ckpt.pt", state)
    error, _ = case.refused("ckpt.pt")
    assert '"0.weight"' in error and '"2.weight"' in error and "shard" in error


def test_another_architecture(case):
    state = {**case.state, "0.weight": torch.ones(9, 5), "0.bias": torch.ones(9)}
    save(case.folder / "ckpt.pt", state)
    error, _ = case.refused("ckpt.pt")
    assert '"0.weight"' in error and "8x5" in error and "9x5" in error


def test_a_diverged_run(case):
    weight = case.state["0.weight"].clone()
    weight[0, 0], weight[1, 1] = float("nan"), float("inf")
    save(case.folder / "ckpt.pt", {**case.state, "0.weight": weight})
    error, _ = case.refused("ckpt.pt")
    assert '"0.weight"' in error and "1 NaN" in error and "1 Inf" in error


def test_a_batch_that_does_not_fit(case):
    save(case.folder / "ckpt.pt", case.state)
    x, y = reference("P01").batches[0]
    torch.save((torch.cat([x, x[:, :1]], 1), y), case.folder / "wide.pt")
    error, _ = case.refused("ckpt.pt", batch="wide.pt")
    assert "wide.pt" in error and "6" in error and "5" in error
    torch.save((x, torch.full_like(y, 3)), case.folder / "labels.pt")
    error, _ = case.refused("ckpt.pt", batch="labels.pt")
    assert "labels.pt" in error and "label 3" in error and "0..2" in error


def test_a_sharded_folder_that_lacks_a_shard(case):
    names = list(case.state)
    places = {name: f"model-0000{1 + (i > 1)}-of-00002.safetensors" for i, name in enumerate(names)}
    folder = case.folder / "sharded"
    folder.mkdir()
    for shard in set(places.values()):
        save_file({n: case.state[n] for n in names if places[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert case.kappa("sharded")[0] == pytest.approx(KAPPA, rel=1e-6)
    shutil.move(folder / "model-00002-of-00002.safetensors", folder / "elsewhere.bin")
    assert "1 of 2 shards missing" in case.refused("sharded")[0]
