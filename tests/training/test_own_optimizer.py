"""What an optimizer of the user's gets, and how its mistakes are said."""

import re
from pathlib import Path

import pytest
from training_runs import folder

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.training.build import build_run
from homotopy_cli.training.loop import train

README = Path(__file__).parents[2] / "recipes" / "README.md"
CODE = """
import torch
def groups(pairs, lr, decay):
    few = [p for n, p in pairs if n.endswith("bias")]
    most = [p for n, p in pairs if not n.endswith("bias")]
    parts = [{"params": most, "weight_decay": decay}, {"params": few, "weight_decay": 0.0}]
    return torch.optim.AdamW(parts, lr=lr)
def plain(params, lr): return torch.optim.SGD(params, lr=lr)
def by_name(named_parameters, lr, decay=0.3): return groups(named_parameters, lr, decay)
def by_model(model, lr, decay=0.3): return groups(list(model.named_parameters()), lr, decay)
class Mine(torch.optim.SGD):
    def __init__(self, model, lr): super().__init__(model[0].parameters(), lr=lr)
def fails(params, lr): return {}["warmup"]
def short(params): return torch.optim.SGD(params, lr=0.1)
"""


@pytest.fixture
def recipe(tmp_path):
    made = folder(tmp_path, steps=4, freq=0)
    (tmp_path / "opt.py").write_text(CODE)
    return made


def load(recipe, name, **keys):
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return load_recipe(recipe, (f'optimizer={{name: "opt.py:{name}", lr: 0.05{more}}}',))


@pytest.mark.parametrize("name", ["by_name", "by_model"])
def test_groups_by_name(recipe, tmp_path, name):
    run = build_run(load(recipe, name))
    groups = [(len(g["params"]), g["weight_decay"]) for g in run.optimizer.param_groups]
    assert groups == [(2, 0.3), (2, 0.0)]
    whole = train(load(recipe, name, decay=0.2), tmp_path / "a.h5")
    assert whole.status == "finished"


def test_others_get_the_list_of_parameters(recipe):
    run = build_run(load(recipe, "plain"))
    assert run.optimizer.param_groups[0]["params"] == list(run.model.parameters())
    assert len(build_run(load(recipe, "Mine")).optimizer.param_groups[0]["params"]) == 2


@pytest.mark.parametrize(
    "name, words, hint",
    [
        ("fails", "opt.py:fails failed: KeyError: 'warmup'", "it takes lr"),
        ("short", "opt.py:short refused its settings: short() got", "it takes no settings"),
    ],
)
def test_a_failure_is_one_line(recipe, name, words, hint):
    with pytest.raises(RecipeError) as caught:
        build_run(load(recipe, name))
    assert words in caught.value.message and caught.value.hint == hint


def test_the_example_of_the_readme_trains(tmp_path):
    code, yaml = (
        re.search(rf"```{kind}\n(# {name}.*?)```", README.read_text(encoding="utf-8"), re.S)[1]
        for kind, name in (("python", "mycode.py"), ("yaml", "own.yaml"))
    )
    (tmp_path / "mycode.py").write_text(code)
    (tmp_path / "own.yaml").write_text(yaml)
    loaded = load_recipe(tmp_path / "own.yaml", ("steps=30",))
    run = build_run(loaded)
    assert (run.data.n_train, run.data.n_eval) == (320, 80)
    assert [g["weight_decay"] for g in run.optimizer.param_groups] == [0.1, 0.0]
    result = train(loaded, tmp_path / "run.h5")
    assert result.status == "finished" and result.final_loss < 0.8 * result.tally.first_loss
