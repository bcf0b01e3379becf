"""Per-layer component columns against a forward pass with hooks, written out by hand."""

import json
import math

import h5py
import numpy as np
import pytest
import torch
from training_runs import folder

from homotopy_cli.cli.app import run as run_command
from homotopy_cli.curvature.components_columns import component_layers
from homotopy_cli.problems.nest import n_rows, split_rows
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.records import AttentionComponent, Components, NormComponent
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.loop import train
from homotopy_cli.training.snapshot import SHARE

COLUMNS = (
    "layer_attention_max_logit",
    "layer_attention_entropy",
    "layer_norm_sigma_min",
    "layer_norm_eps_over_var",
)
GPT = """\
model: {name: gpt, layers: 2, width: 16, heads: 2}
data: {name: text, path: text.txt, context: 12}
optimizer: {name: adamw, lr: 1e-2}
steps: 4
batch_size: 8
eval_every: 2
seed: 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny GPT's log, and the same model with the weights of its last checkpoint."""
    path = tmp_path_factory.mktemp("gpt")
    (path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    (path / "recipe.yaml").write_text(GPT)
    loaded = load_recipe(path / "recipe.yaml")
    train(loaded, path / "run.h5")
    run = build_run(loaded)
    run.model.load_state_dict(torch.load(path / "run.pt", weights_only=True)["model"])
    return path / "run.h5", run


def by_hand(run):
    """Oracle: layer -> (largest logit, entropy) and layer -> (σ, ε/σ²), from hooks alone."""
    attention, norm = {}, {}

    def attended(name, heads):
        def hook(module, args, qkv):
            n, length, _ = qkv.shape
            q, k, _ = qkv.double().view(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            hidden = torch.ones(length, length).triu(1).bool()
            scores = scores.masked_fill(hidden, -math.inf)
            weights = scores.softmax(-1)
            entropy = -torch.xlogy(weights, weights).sum(-1).mean()
            attention[name] = (float(scores.max()), float(entropy))

        return hook

    def normed(name):
        def hook(module, args, out):
            variance = float(args[0].double().var(-1, unbiased=False).min())
            norm[name] = (math.sqrt(variance), module.eps / variance)

        return hook

    hooks = []
    for name, module in run.model.named_modules():
        if name.endswith("attention.qkv"):
            hooks.append(module.register_forward_hook(attended(name, 2)))
        if isinstance(module, torch.nn.LayerNorm):
            hooks.append(module.register_forward_hook(normed(name)))
    batch = run.eval_batches[0]
    x, _ = split_rows(batch, max(1, n_rows(batch) // SHARE))[0]
    run.model.eval()
    with torch.no_grad():
        run.model(x)
    for hook in hooks:
        hook.remove()
    return attention, norm


def test_the_last_snapshot_is_the_checkpoint_layer_by_layer(trained):
    path, run = trained
    log = read_log(path)
    attention, norm = by_hand(run)
    assert list(attention) == ["blocks.0.attention.qkv", "blocks.1.attention.qkv"]
    assert len(norm) == 5
    last = {name: log.layer_values[name][-1] for name in COLUMNS}
    for i, layer in enumerate(log.layers):
        nothing = (math.nan, math.nan)
        expected = (*attention.get(layer, nothing), *norm.get(layer, nothing))
        found = [last[name][i] for name in COLUMNS]
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=layer)
    assert last["layer_attention_max_logit"].size == len(log.layers) > 10


def test_every_evaluation_has_them_and_their_worst_is_the_whole_models(trained):
    log = read_log(trained[0])
    rows = np.isfinite(log.probes["norm_sigma_min"])
    assert rows.sum() == 3  # before step 0, after 2, after 4
    for name, worst in zip(COLUMNS, (np.nanmax, np.nanmin, np.nanmin, np.nanmax), strict=True):
        values = log.layer_values[name]
        assert np.isnan(values[~rows]).all(), name
        whole = log.probes[name.removeprefix("layer_")][rows]
        np.testing.assert_allclose(worst(values[rows], axis=1), whole, rtol=1e-6)


def test_the_file_says_where_an_attention_stands(trained):
    with h5py.File(trained[0]) as file:
        said = file["layer_attention_entropy"].attrs["description"]
        assert said == "Mean attention entropy; in the module's first layer (queries)"


def test_a_probes_log_has_them_as_its_json_does(trained):
    folder = trained[0].parent
    probe = ["probe", str(folder / "run.pt"), "--no-density", "--no-trace", "--max-hvp", "8"]
    where = ["--out", str(folder / "probe.h5"), "--json", str(folder / "probe.json")]
    assert run_command([*probe, *where]) == 0
    parts = json.loads((folder / "probe.json").read_text())["components"]
    log = read_log(folder / "probe.h5")
    for kind, inside, key in (("attention", ".qkv", "entropy"), ("norm", "", "sigma_min")):
        column = log.layer_values[f"layer_{kind}_{key}"][0]
        expected = {f"{part['name']}{inside}": part[key] for part in parts[kind]}
        found = {log.layers[i]: float(column[i]) for i in np.flatnonzero(np.isfinite(column))}
        assert found == pytest.approx(expected, rel=1e-6)
    assert log.probes["attention_entropy"][0] == min(a["entropy"] for a in parts["attention"])


def test_a_model_without_attention_has_no_such_column(tmp_path):
    recipe = folder(tmp_path, model="build_with_state", eval_every=10)
    train(load_recipe(recipe), tmp_path / "run.h5")
    log = read_log(tmp_path / "run.h5")
    assert "layer_attention_entropy" not in log.layer_values
    sigma = log.layer_values["layer_norm_sigma_min"]
    assert [log.layers[i] for i in np.flatnonzero(np.isfinite(sigma).any(axis=0))] == ["1"]


def attends(name, logit, entropy=1.0):
    return AttentionComponent(name, logit, entropy, 0.5, 1)


def normed(name, sigma):
    return NormComponent(name, "LayerNorm", sigma, sigma, 1e-5 / sigma**2)


LAYERS = (("emb.weight",), ("a.q.weight", "a.q.bias"), ("a.out.weight",), ("n.weight",))


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("a", 1),  # the first layer inside
        ("a.out", 2),  # the layer itself
        ("a#2", 1),  # a second call of the same module
        ("a.core", 1),  # a module without parameters: the one around it
        ("n", 3),
        ("(root)", None),
        ("(loss)", None),
        ("b.core", None),
    ],
)
def test_the_layer_that_a_call_site_belongs_to(site, layer):
    found = component_layers(Components(attention=(attends(site, 3.0),)), LAYERS)
    expected = [math.nan] * 4
    if layer is None:
        assert found == {}
        return
    expected[layer] = 3.0
    np.testing.assert_array_equal(found["layer_attention_max_logit"], np.array(expected, "f4"))


def test_of_several_call_sites_the_worst_is_kept():
    parts = Components(
        attention=(attends("a", 3.0, 0.5), attends("a#2", 7.0, 2.0), attends("a#3", 5.0, 0.25)),
        norm=(normed("n", 0.5), normed("n#2", 0.25), normed("n#3", math.inf)),
    )
    found = component_layers(parts, LAYERS)
    picked = [float(column[1 if "attention" in name else 3]) for name, column in found.items()]
    assert list(found) == list(COLUMNS)
    assert picked == [7.0, 0.25, 0.25, pytest.approx(1.6e-4)]


def test_without_layers_there_is_no_column():
    assert component_layers(Components(norm=(normed("n", 0.5),)), ()) == {}
