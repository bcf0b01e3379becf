"""load_problem: the whole way of `homotopy probe`, from files to a Problem, and its refusals."""

import json
import os
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import adam_state, lightning, mlp, save, state, trained, whole_module
from torch import nn

from homotopy_cli.errors import HomotopyError
from homotopy_cli.problems.chunks import total
from homotopy_cli.problems.from_recipe import build_model_loss_data
from homotopy_cli.problems.load import load_problem
from homotopy_cli.recipe.load import load_recipe

MODEL = """
import torch.nn as nn, torch.nn.functional as F
def build(hidden=8, bias=True):
    return nn.Sequential(nn.Linear(5, hidden, bias=bias), nn.Tanh(), nn.Linear(hidden, 3))
def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)
def not_a_module():
    return 3
def fails(**kwargs):
    raise ValueError("no such size")
ready = build()
number = 3
"""
X = torch.randn(32, 5, generator=torch.Generator().manual_seed(4))
Y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: model.py, ckpt.pt, batch.pt; the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    save(tmp_path / "ckpt.pt", state())
    save(tmp_path / "batch.pt", (X, Y))
    return tmp_path


def exact_loss(model=None):
    return F.cross_entropy((model or trained()).double()(X.double()), Y).item()


def refusal(*arguments, **options):
    with pytest.raises(HomotopyError) as caught:
        load_problem(*arguments, **options)
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in error.message + error.hint
    assert error.hint
    return error


FOREIGN = {"model": "model.py:build", "loss": "model.py:loss", "batches": ["batch.pt"]}


def test_a_foreign_checkpoint_with_everything_named(folder):
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    found = load_problem("ckpt.pt", **FOREIGN, dtype="float64")
    assert found.problem.n_params == 75
    assert found.problem.n_terms == 32
    assert found.problem.dtype == torch.float64
    assert abs(total(found.problem) - exact_loss()) < 1e-14
    assert found.loss.name == "model.py:loss"
    assert found.optimizer_info is None
    assert found.notes == ()
    after = {n: (folder / n).read_bytes() for n in os.listdir(folder) if n != "__pycache__"}
    assert after == before


def test_a_loss_is_guessed_and_said(folder):
    found = load_problem("ckpt.pt", model="model.py:build", batches="batch.pt", dtype="float64")
    assert found.problem.criterion_name == "cross_entropy"
    assert found.notes == ("loss guessed: targets are int64 class indices: cross_entropy",)
    assert abs(total(found.problem) - exact_loss()) < 1e-14


def test_objects_instead_of_names(folder):
    for model in (mlp, mlp(), nn.DataParallel(mlp())):
        found = load_problem("ckpt.pt", model=model, loss="cross_entropy", batches=[(X, Y)])
        assert abs(total(found.problem) - exact_loss()) < 1e-6


def test_several_batch_files_weigh_by_rows(folder):
    save(folder / "a.pt", (X[:20], Y[:20]))
    np.savez(folder / "b.npz", x=X[20:].numpy(), y=Y[20:].numpy())
    found = load_problem(
        "ckpt.pt", **{**FOREIGN, "batches": ["a.pt", "b.npz"]}, dtype=torch.float64
    )
    assert found.problem.weights == (20 / 32, 12 / 32)
    assert abs(total(found.problem) - exact_loss()) < 1e-14


def test_float64_weights_are_not_rounded(folder):
    exact = {name: value.double() + 1e-12 for name, value in state().items()}
    save(folder / "ckpt.pt", exact)
    for dtype in (None, "float64"):
        found = load_problem("ckpt.pt", **FOREIGN, dtype=dtype)
        assert torch.equal(found.problem.params["0.weight"].detach(), exact["0.weight"])


def test_model_arguments_are_read_as_in_a_recipe(folder):
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))
    save(folder / "ckpt.pt", model.state_dict())
    options = {**FOREIGN, "model_args": ["hidden=4", "bias=false"]}
    assert load_problem("ckpt.pt", **options).problem.n_params == 35
    given = {**FOREIGN, "model_args": {"hidden": 4, "bias": False}}
    assert load_problem("ckpt.pt", **given).problem.n_params == 35
    error = refusal("ckpt.pt", **{**FOREIGN, "model_args": ["hidden"]})
    assert error.message == "--model-arg hidden: is not KEY=VALUE"


def test_models_that_cannot_be_built(folder):
    def message(target, **more):
        return refusal("ckpt.pt", **{**FOREIGN, "model": target, **more}).message

    assert message("model.py:not_a_module") == (
        "--model model.py:not_a_module: returned int, not a torch.nn.Module"
    )
    assert message("model.py:number") == "--model model.py:number: is a int, not a callable"
    assert message("model.py:fails", model_args=["width=3"]) == (
        "--model model.py:fails(width=3): ValueError: no such size"
    )
    assert "no file nowhere.py" in message("nowhere.py:build")
    assert load_problem("ckpt.pt", **{**FOREIGN, "model": "model.py:ready"}).problem.n_params == 75


def test_what_a_bare_checkpoint_lacks_is_said_with_the_command(folder):
    error = refusal("ckpt.pt")
    assert error.message == (
        "ckpt.pt: holds 4 tensors (state_dict, 75 numbers) but no recipe, so model, loss and "
        "data are unknown"
    )
    assert error.hint.startswith(
        "homotopy probe ckpt.pt --model model.py:build --loss model.py:loss --batch batch.pt"
    )
    error = refusal("ckpt.pt", model="model.py:build")
    assert "the data are unknown" in error.message


def test_a_bare_nested_checkpoint_names_the_entry_it_took_and_the_others(folder):
    one = {"epoch": 3, "net": {"model": state(), "step": 1}}
    save(folder / "nested.pt", one)
    assert refusal("nested.pt").message == (
        'nested.pt: holds 4 tensors in "net.model" (nested, 75 numbers) but no recipe, so model, '
        "loss and data are unknown"
    )
    several = {"model": {"w": torch.ones(2)}, **{k: state() for k in ("ema", "a", "b", "c", "d")}}
    save(folder / "several.pt", several)
    assert refusal("several.pt").message == (
        'several.pt: holds 1 tensor in "model" (nested, 2 numbers; --entry NAME takes "a", "b", '
        '"c", "d" and 1 more) but no recipe, so model, loss and data are unknown'
    )


def test_weights_inside_a_transformers_folder_lead_to_the_folder(folder):
    (folder / "hf model").mkdir()
    save(folder / "hf model" / "pytorch_model.bin", state())
    bare = refusal("hf model/pytorch_model.bin").hint
    assert bare.startswith("homotopy probe 'hf model/pytorch_model.bin' --model model.py:build")
    (folder / "hf model" / "config.json").write_text('{"model_type": "bert"}')
    assert refusal("hf model/pytorch_model.bin").hint == (
        "homotopy probe 'hf model' --text FILE.txt   (the transformers folder it lies in)"
    )


SIGMOID = """
import torch
from torch import nn
def build(last):
    return nn.Sequential(nn.Linear(5, 3), getattr(nn, last)(*([1] if "Softmax" in last else [])))
def plain(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()
"""


@pytest.mark.parametrize(
    ("last", "loss", "words"),
    [
        ("Sigmoid", "bce", "all 96 outputs are within 0..1, and bce takes logits: if the model "),
        ("Sigmoid", "torch.nn:BCEWithLogitsLoss", "and BCEWithLogitsLoss takes logits"),
        ("Softmax", "cross_entropy", "probabilities that sum to 1, and cross_entropy takes logits"),
        ("Softmax", "torch.nn.functional:cross_entropy", "and cross_entropy takes logits"),
        ("Sigmoid", "torch.nn.functional:binary_cross_entropy", ""),
        ("Sigmoid", "model.py:plain", ""),
        ("Sigmoid", "cross_entropy", ""),  # within 0..1, but no distribution over the classes
        ("LogSoftmax", "cross_entropy", ""),
        ("Identity", "bce", ""),
    ],
)
def test_a_sigmoid_or_softmax_that_would_be_applied_twice_is_said(folder, last, loss, words):
    (folder / "model.py").write_text(SIGMOID)
    save(folder / "last.pt", {"0.weight": state()["0.weight"][:3], "0.bias": state()["0.bias"][:3]})
    binary = "cross_entropy" not in loss or "binary" in loss
    save(folder / "batch.pt", (X, torch.eye(3)[Y] if binary else Y))
    options = {"model": "model.py:build", "model_args": {"last": last}, "batches": "batch.pt"}
    notes = load_problem("last.pt", loss=loss, **options).notes
    assert len(notes) == bool(words)
    assert not words or (notes[0].startswith("warning: ") and words in notes[0])


def test_options_that_are_no_options(folder):
    assert refusal("ckpt.pt", **FOREIGN, dtype="float8").message == (
        "--dtype float8: is not float32 or float64"
    )
    assert "--device nowhere" in refusal("ckpt.pt", **FOREIGN, device="nowhere").message
    assert "is not one of" in refusal("ckpt.pt", **{**FOREIGN, "loss": "entropy"}).message


def test_batches_that_do_not_fit_are_named(folder):
    save(folder / "wide.pt", (torch.randn(4, 6), Y[:4]))
    save(folder / "labels.pt", (X[:4], torch.tensor([0, 1, 3, 2])))
    for loss in ("model.py:loss", "cross_entropy", None):
        options = {"model": "model.py:build", "loss": loss}
        assert refusal("ckpt.pt", **options, batches=["wide.pt"]).message == (
            'wide.pt: 6 features given, 5 wanted (module "0", Linear)'
        )
        assert refusal("ckpt.pt", **options, batches=["labels.pt"]).message == (
            "labels.pt: label 3 out of range 0..2"
        )


def test_non_finite_batches_and_losses_are_refused(folder):
    x = X.clone()
    x[3, 2] = torch.nan
    save(folder / "nan.pt", (x, Y))
    error = refusal("ckpt.pt", **{**FOREIGN, "batches": ["nan.pt"]})
    assert error.message == "nan.pt: 1 non-finite values in [0]"
    save(folder / "ckpt.pt", {name: value * 1e30 for name, value in state().items()})
    error = refusal(
        "ckpt.pt",
        model="model.py:build",
        loss=lambda model, batch: (model(batch[0]) ** 2).mean(),
        batches="batch.pt",
    )
    assert error.message == "the loss is inf at finite weights"
    assert "--dtype float64" in error.hint


def test_a_model_that_changes_between_calls_is_refused(folder):
    class Drifting(nn.Sequential):
        def __init__(self):
            super().__init__(*mlp())
            self.calls = []

        def forward(self, x):
            self.calls.append(1)
            return super().forward(x) * len(self.calls)

    error = refusal("ckpt.pt", model=Drifting, loss="cross_entropy", batches="batch.pt")
    assert "the model keeps state outside its buffers" in error.message


def test_a_model_that_counts_its_calls_is_told_of(folder):
    """What is put back after a measurement still moves while one lasts."""

    class Counting(nn.Sequential):
        def __init__(self):
            super().__init__(*mlp())
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 + 0.01 * self.calls)

    given = {"loss": "cross_entropy", "batches": "batch.pt"}
    found = load_problem("ckpt.pt", model=Counting, **given)
    words = "at the same weights and seed: the model counts its calls"
    assert [words in note for note in found.notes if note.startswith("warning: ")] == [True]
    assert not any(words in note for note in load_problem("ckpt.pt", model=mlp(), **given).notes)


def test_optimizer_states_are_matched_with_parameters(folder):
    found = load_problem(lightning(folder), **FOREIGN)
    info = found.optimizer_info
    assert info.step == 1
    assert info.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert info.settings["betas"] == (0.9, 0.999)
    assert info.family is None
    content = {"model": state(), "optimizer": adam_state(nn.Linear(5, 3))}
    save(folder / "other.pt", content)
    assert load_problem("other.pt", **FOREIGN).optimizer_info.parameters is None


def test_a_trusted_module_needs_no_model(folder):
    found = load_problem(
        whole_module(folder), loss="cross_entropy", batches="batch.pt", trust_pickle=True
    )
    assert type(found.model).__name__ == "Net"
    assert abs(total(found.problem) - exact_loss()) < 1e-6


RECIPE = """
model: {name: mlp, hidden: [8]}
data: data.npz
optimizer: {name: adamw, lr: 1e-3}
steps: 5
batch_size: 16
seed: 3
"""
USER_RECIPE = RECIPE.replace("{name: mlp, hidden: [8]}", "model.py:build")


def built(recipe, folder):
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return build_model_loss_data(recipe, base_dir=folder)


def own_checkpoint(folder, text=RECIPE, name="run.pt", inside="runs"):
    """What `homotopy train` leaves: weights after a step, the recipe, its folder."""
    (folder / "recipe.yaml").write_text(text)
    np.savez(folder / "data.npz", x=X.numpy(), y=Y.numpy())
    loaded = load_recipe(folder / "recipe.yaml")
    (folder / inside).mkdir(exist_ok=True)
    model = built(loaded.recipe, folder).model
    content = {
        "format": "homotopy-checkpoint",
        "version": 1,
        "step": 5,
        "model": {name: value + 0.25 for name, value in model.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1, 2, 3]}]},
        "scheduler": {"last_epoch": 5},
        "rng": {},
        "recipe": json.dumps(loaded.recipe.resolved()),
        "recipe_source": loaded.source,
        "recipe_dir": os.path.relpath(folder, folder / inside),
        "n_params": sum(p.numel() for p in model.parameters()),
        "loss": 1.0,
    }
    return save(folder / inside / name, content), content


def test_our_own_checkpoint_needs_nothing(folder, monkeypatch, tmp_path_factory):
    path, content = own_checkpoint(folder)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = load_problem(path)
    assert found.checkpoint.kind == "homotopy"
    assert found.problem.criterion_name == "cross_entropy"
    assert found.checkpoint.extra["step"] == 5
    assert found.checkpoint.recipe["seed"] == 3
    assert found.checkpoint.recipe_source == RECIPE
    assert found.optimizer_info.family == "adamw"
    assert found.checkpoint.scheduler_state == {"last_epoch": 5}
    for name, leaf in found.problem.params.items():
        assert torch.equal(leaf.detach(), content["model"][name])


def test_the_recipe_can_come_from_elsewhere_and_batches_too(folder):
    path, content = own_checkpoint(folder)
    save(folder / "bare.pt", content["model"])
    wanted = total(load_problem(path).problem)
    assert total(load_problem("bare.pt", recipe="recipe.yaml").problem) == wanted
    found = load_problem(path, batches="batch.pt")
    assert found.problem.n_terms == 32
    assert found.problem.criterion_name == "cross_entropy"


def test_user_code_named_by_a_checkpoint_does_not_run(folder):
    path, _ = own_checkpoint(folder, USER_RECIPE)
    (folder / "model.py").write_text("__import__('pathlib').Path('RAN.txt').touch()\n" + MODEL)
    error = refusal(path)
    assert error.message == (
        f"{path}: the recipe inside names user code (model.py:build), which a checkpoint cannot "
        "make run"
    )
    assert error.hint == f"homotopy probe {path} --recipe recipe.yaml"
    assert "RAN.txt" not in os.listdir(folder)
    for consent in ({"trust_code": True}, {"recipe": "recipe.yaml"}, {"model": mlp}):
        assert load_problem(path, **consent).problem.n_params == 75
    assert "RAN.txt" in os.listdir(folder)


def test_without_a_recipe_file_that_means_the_same_the_hint_is_the_recipe_inside(folder):
    path, content = own_checkpoint(folder, USER_RECIPE)
    (folder / "recipe.yaml").unlink()
    inside = f"homotopy probe {path} --trust-code   (where you trust that code)"
    assert refusal(path).hint == inside
    own_checkpoint(folder, USER_RECIPE)
    changed = load_recipe("recipe.yaml", ["loss=mse"])
    save(path, {**content, "recipe": json.dumps(changed.recipe.resolved())})
    assert refusal(path).hint == inside  # the file lacks what --set changed


def test_a_recipe_of_other_parts_than_the_one_inside_is_said(folder):
    path, content = own_checkpoint(folder)
    assert not any("warning" in note for note in load_problem(path, recipe="recipe.yaml").notes)
    changed = load_recipe("recipe.yaml", ["loss=mse", "steps=7"])
    save(path, {**content, "recipe": json.dumps(changed.recipe.resolved())})
    assert (
        "warning: the recipe given is not the one this checkpoint was trained with: loss by "
        "default, trained with mse"
    ) in load_problem(path, recipe="recipe.yaml").notes
    given = load_problem(path, recipe="recipe.yaml", loss="cross_entropy")
    assert not any("warning" in note for note in given.notes)  # that part is not the recipe's


def test_newer_and_damaged_checkpoints_of_ours(folder):
    path, content = own_checkpoint(folder)
    save(path, {**content, "version": 2})
    assert "checkpoint version 2, this program reads 1 and older" in refusal(path).message
    save(path, {**content, "recipe": "{"})
    assert "the recipe inside is not readable JSON" in refusal(path).message


TEXT_RECIPE = """
model: {name: gpt, layers: 1, heads: 2, width: 8}
data: {name: text, path: corpus.txt, context: 8}
optimizer: {name: sgd, lr: 0.1}
steps: 1
batch_size: 4
"""


def test_text_replaces_the_data_of_a_token_model(folder):
    (folder / "corpus.txt").write_text("the cat sat on the mat. " * 40)
    (folder / "recipe.yaml").write_text(TEXT_RECIPE)
    (folder / "other.txt").write_text("a dog ate the cat. " * 20)
    (folder / "greek.txt").write_text("αβγδε ζηθ. " * 20)
    loaded = load_recipe("recipe.yaml")
    model = built(loaded.recipe, folder).model
    save(folder / "gpt.pt", model.state_dict())
    own = load_problem("gpt.pt", recipe="recipe.yaml")
    assert own.problem.n_terms == 4 * 8
    other = load_problem("gpt.pt", recipe="recipe.yaml", text="other.txt")
    assert other.problem.n_terms == 4 * 8
    assert total(other.problem) != total(own.problem)
    assert own.problem.criterion_name == "next_token"
    assert "distinct characters are not the" in (
        refusal("gpt.pt", recipe="recipe.yaml", text="greek.txt").message
    )


def test_text_for_models_without_tokens(folder):
    path, _ = own_checkpoint(folder)
    assert refusal(path, text="x.txt").message == "--text x.txt: the recipe's data are not text"
    assert "holds no recipe of a token model" in refusal("ckpt.pt", text="x.txt").message


def test_the_quadratic_takes_its_loss_from_the_models_result(folder):
    text = textwrap.dedent(
        """
        model: {name: quadratic, dim: 6, condition: 10}
        data: quadratic
        optimizer: {name: sgd, lr: 0.1}
        steps: 1
        """
    )
    (folder / "q.yaml").write_text(text)
    made = built(load_recipe("q.yaml").recipe, folder)
    assert made.loss.name == "output"
    assert sum(p.numel() for p in made.model.parameters()) == 6
