"""--sweep and --seeds as a list of cells."""

import pytest

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.grid import cells, parse_seeds, split_values


def test_every_combination_with_seeds_fastest():
    made = cells(["optimizer.lr=1e-3,1e-2", "batch_size=8,16"], [1, 2])
    assert [c.name for c in made[:3]] == [
        "lr=1e-3_batch_size=8_seed=1",
        "lr=1e-3_batch_size=8_seed=2",
        "lr=1e-3_batch_size=16_seed=1",
    ]
    assert len({c.name for c in made}) == 8
    assert made[-1].overrides == ("optimizer.lr=1e-2", "batch_size=16", "seed=2")
    assert cells([], [3, 4])[1].overrides == ("seed=4",)
    assert cells(["steps=5"], [])[0].overrides == ("steps=5",)


def test_keys_with_one_last_name_are_told_apart():
    (cell,) = cells(["model.name=gpt", "scheduler.name=cosine"], [])
    assert cell.name == "model.name=gpt_scheduler.name=cosine"


def test_profiles_are_an_axis():
    a, b = cells(["profile=cosine,auto"], [])
    assert (a.profiles, b.profiles) == (("cosine",), ("auto",)) and a.overrides == ()


def test_commas_inside_brackets_and_quotes_split_nothing():
    assert split_values("[1, 2],{a: 1, b: 2},'x,y',z") == ["[1, 2]", "{a: 1, b: 2}", "'x,y'", "z"]
    first, second = cells(["scheduler={name: cosine, warmup: 0.1},constant"], [])
    assert first.name == "scheduler=_name_cosine_warmup_0.1"
    assert second.overrides == ("scheduler=constant",)


def test_names_never_collide_and_stay_inside_the_folder():
    made = cells(["a=x/y,x y,../z"], [])
    assert len({c.name for c in made}) == 3
    assert not any("/" in c.name for c in made)


@pytest.mark.parametrize(
    "sweep", ["optimizer.lr", "=1,2", "optimizer.lr=", "optimizer.lr=1,,2", "optimizer.lr=1,1"]
)
def test_faults_are_named(sweep):
    with pytest.raises(RecipeError, match="--sweep") as error:
        cells([sweep], [])
    assert error.value.hint


def test_too_many_and_twice():
    with pytest.raises(RecipeError, match="given twice"):
        cells(["a=1", "a=2"], [])
    with pytest.raises(RecipeError, match="more than 10000"):
        cells([f"{k}={','.join(map(str, range(30)))}" for k in "abc"], [])


def test_seeds():
    assert parse_seeds(None, 1) == []
    assert parse_seeds("3", 5) == [5, 6, 7]
    assert parse_seeds("1, 9", 5) == [1, 9]
    for text in ("0", "x", "1,1", "-3", "1,"):
        with pytest.raises(RecipeError, match="--seeds"):
            parse_seeds(text, 1)
