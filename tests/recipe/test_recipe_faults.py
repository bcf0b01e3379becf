"""What is wrong with a recipe, in words: one test per fault a user can make."""

import pytest

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import load_recipe

GOOD = {
    "model": "model: model.py:build",
    "data": "data: data.npz",
    "optimizer": "optimizer: {name: sgd, lr: 0.1}",
    "steps": "steps: 20",
}


@pytest.fixture
def faults(tmp_path):
    """Replace or add lines of a good recipe and return its faults as (message, hint)."""

    def check(overrides=(), **changes: str) -> list[tuple[str, str]]:
        path = tmp_path / "r.yaml"
        path.write_text("\n".join({**GOOD, **changes}.values()) + "\n", encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        return [(m.replace(f"{path}", "r.yaml"), h) for m, h in caught.value.faults]

    return check


def test_unknown_keys_suggest_and_are_all_told(faults):
    assert faults(steps="step: 20", more="batchsize: 16") == [
        ("r.yaml:4: step: unknown key", "did you mean 'steps'?"),
        ("r.yaml:5: batchsize: unknown key", "did you mean 'batch_size'?"),
    ]


def test_the_message_counts_the_rest(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("steps: 0\nbatchsize: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.faults) == 5
    assert caught.value.message.endswith(" (and 4 more)")
    missing = [m.split(": ")[1] for m, _ in caught.value.faults if m.endswith("missing")]
    assert missing == ["model", "data", "optimizer"]


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ("seed: None", "seed: 'None' is text; write null", "null, or leave the key out"),
        ("seed: yes", "seed: 'yes' is text, not a whole number", "a number such as 0.001"),
        ("seed: true", "seed: true is true/false, not a whole number", ""),
        ("seed: 1.5", "seed: 1.5 is not a whole number", "write 2"),
        ("seed: [1]", "seed: [1] is a list, not a whole number", ""),
        ("seed: 9223372036854775808", "seed: 9223372036854775808 does not fit into 64 bits", ""),
        ("batch_size: 0", "batch_size: 0 is too small", "at least 1"),
        ("batch_size: '16'", "batch_size: '16' is text, not a whole number", "write 16, without"),
        ("batch_size: 1_6", "batch_size: '1_6' is text, not a whole number", "write 16"),
        ("name: 5", "name: 5 is a number, not text", "write '5' in quotes"),
        ("out: runs/a", "out: 'runs/a' is not an HDF5 file name", "runs/a/run.h5"),
        ("dtype: float16", "dtype: 'float16' is not one of float32, float64", "did you mean"),
        ("loss: cross_entropi", "loss: 'cross_entropi' is neither", "did you mean 'cross_entropy'"),
        ("curvature: 5", "curvature: 5 is a number, not a mapping", "write `curvature:`"),
        ("curvature: {freq: -1}", "curvature.freq: -1 is too small", "at least 0"),
        ("curvature: {budget: 1.5}", "curvature.budget: 1.5 is too large", "below 1"),
        ("curvature: {freqency: 5}", "curvature.freqency: unknown key of curvature", "'freq'"),
        ("freq: 5", "freq: unknown key", "it belongs under `curvature:`"),
        ("lr: 5", "lr: unknown key", "it belongs under `optimizer:`"),
        ("epochs: 10", "epochs: unknown key", "steps: N, optimizer steps; an epoch is the train"),
        ("learning_rate: 1", "learning_rate: unknown key", "optimizer: {lr: 1e-3}"),
        ("clip: 1.5", "clip: 1.5 is a number, not a mapping", "clip: {name: norm, max_norm: 1.5}"),
        ("clip: {max_norm: 0}", "clip.max_norm: 0 is too small", "greater than 0"),
        ("clip: {max_norm: .inf}", "clip.max_norm: inf is not a finite number", ""),
        ("scheduler: null", "scheduler: a run always has a scheduler", "scheduler: constant"),
        ("scheduler: off", "scheduler: a run always has a scheduler", "scheduler: constant"),
        ("scheduler: cosin", "scheduler: 'cosin' is not a known scheduler", "'cosine'"),
        ("scheduler: {warmup: 3}", "scheduler: needs a name", "name: one of homotopy, "),
        ("scheduler: {nmae: step}", "scheduler: needs a name", "did you mean 'name' for 'nmae'?"),
        ("scheduler: 3", "scheduler: 3 is a number, not a scheduler", "one of homotopy, "),
        (
            "scheduler: {name: homotopy, estimation_frq: 5}",
            "scheduler.estimation_frq: unknown key of homotopy",
            "did you mean 'estimation_freq'?",
        ),
        (
            "scheduler: {name: cosine, warmup: 2.5}",
            "scheduler.warmup: 2.5 is neither a number of steps nor a share of the run",
            "a whole number of steps, or a share below 1",
        ),
        (
            "scheduler: {name: homotopy, inner: {name: cosine, warmups: 5}}",
            "scheduler.inner.warmups: unknown key of cosine",
            "did you mean 'warmup'?",
        ),
        (
            "scheduler: {name: homotopy, inner: homotopy}",
            "scheduler.inner: 'homotopy' is not a known schedule",
            "one of constant, step, cosine, linear, wsd, exponential",
        ),
        ("scheduler: {name: step, gamma: 0}", "scheduler.gamma: 0 is too small", "greater than 0"),
        (
            "scheduler: {name: homotopy, release: 0.9}",
            "scheduler.release: 0.9 is too",
            "at least 1",
        ),
        ("profiles: {small: 5}", "profiles.small: 5 is a number, not a mapping", ""),
    ],
)
def test_one_fault_at_the_end_of_the_file(faults, line, what, hint):
    ((message, said),) = faults(more=line)
    assert message.startswith(f"r.yaml:5: {what}")
    assert hint in said


@pytest.mark.parametrize(
    ("optimizer", "what", "hint"),
    [
        ("{name: sgd, lr: abc}", "lr: 'abc' is text, not a number", "such as 0.001"),
        ("{name: sgd, lr: '1e-3'}", "lr: '1e-3' is text, not a number", "write 1e-3, without"),
        ("{name: sgd, lr: 0,001}", None, None),
        ("{name: sgd, lr: true}", "lr: true is true/false, not a number", ""),
        ("{name: sgd, lr: .nan}", "lr: nan is not a finite number", ""),
        ("{name: sgd, lr: 0}", "lr: 0 is too small", "greater than 0"),
        ("{name: sgd, lr: -0.1}", "lr: -0.1 is too small", "greater than 0"),
        ("{name: sgd, lr: 1e39}", "lr: 1e+39 does not fit into float32", "smaller"),
        ("{name: sgd, lr: null}", "lr: is null, but needs a value", "lr: 1e-3"),
        ("{name: sgd}", "lr: missing", "lr: 1e-3"),
        ("{name: sgd, lr: 1, momentm: 0.9}", "momentm: unknown key of sgd", "'momentum'"),
        ("{name: sgd, lr: 1, betas: [0.9, 0.9]}", "betas: unknown key of sgd", "known here: "),
        ("{name: sgd, lr: 1, momentum: 1}", "momentum: 1 is too large", "below 1"),
        ("{name: sgd, lr: 1, nesterov: no}", "nesterov: 'no' is text, not true or", "write false"),
        ("{name: sgd, lr: 1, nesterov: 1}", "nesterov: 1 is a number, not true or false", ""),
        (
            "{name: sgd, lr: 1, nesterov: true}",
            "nesterov: Nesterov momentum needs",
            "momentum: 0.9",
        ),
        ("{name: adam, lr: 1, betas: [0.9]}", "betas: needs 2 values, has 1", ""),
        ("{name: adam, lr: 1, betas: 0.9}", "betas: 0.9 is a number, not a list", "[first,"),
        ("{name: adam, lr: 1, betas: [0.9, 1.0]}", "betas[1]: 1 is too large", "below 1"),
        ("{name: adan, lr: 1}", "name: 'adan' is not a known optimizer", "did you mean 'adam'?"),
        ("{name: AdamW, lr: 1}", "name: 'AdamW' is not known", "write adamw"),
        ("{name: lbfgs, lr: 1}", "name: 'lbfgs' steps with a closure", ""),
        ("{name: sparseadam, lr: 1}", "name: 'sparseadam' needs sparse gradients", "adam"),
    ],
)
def test_optimizer_faults(faults, optimizer, what, hint):
    found = faults(optimizer=f"optimizer: {optimizer}")
    if what is None:  # a decimal comma in a flow mapping is two keys: lr: 0 and 001
        assert [m for m, _ in found] == [
            "r.yaml:3: optimizer.lr: 0 is too small",
            "r.yaml:3: optimizer.001: unknown key of sgd",
        ]
        return
    ((message, said),) = found
    assert message.startswith(f"r.yaml:3: optimizer.{what}")
    assert hint in said


def test_a_decimal_comma_is_understood(faults):
    ((message, hint),) = faults(optimizer="optimizer:\n  name: sgd\n  lr: 0,001")
    assert message == "r.yaml:5: optimizer.lr: '0,001' is text, not a number"
    assert hint == "write 0.001, without quotes"


@pytest.mark.parametrize(
    ("model", "what", "hint"),
    [
        ("gtp", "model: 'gtp' is neither a model of the zoo nor file.py:callable", "mean 'gpt'?"),
        ("{name: gptt}", "model.name: 'gptt' is not a known model", "did you mean 'gpt'?"),
        ("{layers: 3}", "model: needs a name", "or model.py:build"),
        ("{name: gpt, layer: 3}", "model.layer: unknown key of gpt", "did you mean 'layers'?"),
        ("{name: gpt, layers: 2.5}", "model.layers: 2.5 is not a whole number", "write 2"),
        ("{name: gpt, norm: Pre}", "model.norm: 'Pre' is not one of pre, post", "mean 'pre'?"),
        ("{name: gpt, heads: 5}", "model.width: 128 is not divisible by 5 heads", "width: 130"),
        ("{name: gpt, dropout: 1}", "model.dropout: 1 is too large", "below 1"),
        ("{name: resnet, depth: 18}", "model.depth: 18 is not 6n+2", "depth: 20"),
        ("{name: quadratic, condition: 0.5}", "model.condition: 0.5 is too small", "at least 1"),
        ("{name: mlp, hidden: 64}", "model.hidden: 64 is a number, not a list", "[first,"),
        ("{name: mlp, hidden: [8, x]}", "model.hidden[1]: 'x' is text, not a whole", ""),
        ("[gpt]", "model: ['gpt'] is a list, not a model", "one of gpt, "),
    ],
)
def test_model_faults(faults, model, what, hint):
    ((message, said),) = faults(model=f"model: {model}")
    assert message.startswith(f"r.yaml:1: {what}")
    assert hint in said


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        ("corpus.txt", "data: 'corpus.txt' is not a .npz file", "{name: text, path: corpus.txt}"),
        ("cifer10", "data: 'cifer10' is neither a kind of data", "did you mean 'cifar10'?"),
        ("{name: text}", "data: needs either path or source, neither is given", "path: FILE.txt"),
        (
            "{name: text, path: a.txt, source: pydoc_topics}",
            "data: needs either path or source, both are given",
            "",
        ),
        ("{name: text, source: pydoc}", "data.source: 'pydoc' is not one of pydoc_topics", "mean"),
        ("{name: npz, path: a.npz, X: x}", "data.X: unknown key of npz", "did you mean 'x'?"),
        ("{name: npz}", "data.path: missing", "add `path:`"),
        ("{name: npz, path: ''}", "data.path: is empty text", ""),
        ("{name: npz, path: a.npz, holdout: 1.0}", "data.holdout: 1 is too large", "below 1"),
        ("cifar10", "data.path: missing", "add `path:`"),
    ],
)
def test_data_faults(faults, data, what, hint):
    ((message, said),) = faults(data=f"data: {data}")
    assert message.startswith(f"r.yaml:2: {what}")
    assert hint in said


def test_a_key_in_the_wrong_section(faults):
    ((message, hint),) = faults(optimizer="optimizer: {name: sgd, lr: 0.1, batch_size: 5}")
    assert message == "r.yaml:3: optimizer.batch_size: unknown key of sgd"
    assert hint == "it belongs at the top, not under `optimizer:`"


def test_reading_and_schema_faults_come_together_in_reading_order(faults):
    found = faults(
        optimizer="optimizer: {name: sgd, lr: 0.1, lr: 0.2, momentm: 0.9}",
        steps="steps: 020",
        more="hook: !!python/name:os.system\nstepps: 5",
    )
    assert [message.split(": ", 2)[:2] for message, _ in found] == [
        ["r.yaml:3", "optimizer.lr"],
        ["r.yaml:3", "optimizer.momentm"],
        ["r.yaml:4", "steps"],
        ["r.yaml:5", "hook"],
        ["r.yaml:6", "stepps"],
    ]


def test_set_faults_name_the_argument(faults):
    assert faults(overrides=["optimizer.lr=abc"]) == [
        (
            "--set optimizer.lr=abc: 'abc' is text, not a number",
            "a number such as 0.001, 1e-3 or 20",
        )
    ]
    ((message, _),) = faults(overrides=["optimizer={name: sgd, lr: no}"])
    assert message.startswith("--set optimizer={name: sgd, lr: no}: optimizer.lr: 'no' is text")
    assert faults(overrides=["optimzer.lr=1"])[0] == (
        "--set optimzer.lr=1: optimzer: unknown key",
        "did you mean 'optimizer'?",
    )
    assert faults(overrides=["lr=1"])[0] == (
        "--set lr=1: unknown key",
        "did you mean optimizer.lr?",
    )
    assert faults(overrides=["max_norm=1"])[0][1] == "did you mean clip.max_norm?"
    assert faults(overrides=["epochs=9"])[0][1].startswith("steps: N, optimizer steps")
    assert faults(overrides=["clip=1.0"])[0][1] == "clip: {name: norm, max_norm: 1.0}"
    assert faults(overrides=["steps=017"])[0][0].startswith("--set steps=017: 017 starts with 0")


@pytest.mark.parametrize("argument", ["steps", "=5", "a..b=5"])
def test_set_needs_key_and_value(faults, argument):
    ((message, hint),) = faults(overrides=[argument])
    assert message == f"--set {argument}: is not KEY=VALUE"
    assert hint == "--set optimizer.lr=1e-3"


def test_set_of_a_list_entry_that_is_not_there(faults):
    found = faults(
        overrides=["optimizer.betas.2=0.9"],
        optimizer="optimizer: {name: adam, lr: 1, betas: [0.9, 0.99]}",
    )
    assert found[0][0] == "--set optimizer.betas.2=0.9: there is nothing at optimizer.betas.2"


def test_set_of_another_scheduler_reports_what_no_longer_belongs(faults):
    found = faults(
        overrides=["scheduler.name=constant"], more="scheduler: {name: homotopy, alpha: 2}"
    )
    assert found == [
        (
            "r.yaml:5: scheduler.alpha: unknown key of constant",
            "--set scheduler=constant replaces the whole section",
        )
    ]
