"""Mixed precision, compilation, recomputed activations: what they change, and what not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import folder

from homotopy_cli.errors import RecipeError
from homotopy_cli.problems.criteria import NAMES, from_callable
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.forward import Forward, backward
from homotopy_cli.training.loop import train
from homotopy_cli.training.recompute import Recomputed, blocks_of
from homotopy_cli.zoo.gpt import GPT
from homotopy_cli.zoo.resnet import ResNet

CPU = torch.device("cpu")


def gpt():
    torch.manual_seed(0)
    net = GPT(11, layers=2, heads=2, width=8, context=6, dropout=0.2)
    return net, (torch.randint(11, (4, 6)), torch.randint(11, (4, 6))), NAMES["next_token"]


def resnet():
    torch.manual_seed(0)
    net = ResNet(8, 4, 3, 5)
    return net, (torch.randn(4, 3, 8, 8), torch.randint(5, (4,))), NAMES["cross_entropy"]


def sequential():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    loss = from_callable(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    return net, (torch.randn(6, 5), torch.randint(3, (6,))), loss


MODELS = {"gpt": gpt, "resnet": resnet, "sequential": sequential}


def gradient(net, batch, loss, **settings):
    """(loss, gradients, buffers) after one training pass."""
    torch.manual_seed(7)
    value = backward(Forward(net, loss, CPU, **settings), batch)
    return value, [p.grad for p in net.parameters()], list(net.buffers())


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_activations_give_the_same_bits(name):
    """Dropout draws the same mask again, batch norm counts a batch once."""
    plain = gradient(*MODELS[name]())
    again = gradient(*MODELS[name](), recompute=True)
    assert torch.equal(plain[0], again[0])
    for first, second in zip(plain[1] + plain[2], again[1] + again[2], strict=True):
        assert torch.equal(first, second)


def kept_bytes(net, batch, loss, **settings):
    """What autograd keeps from the forward pass, parameters apart."""
    own = {p.data_ptr() for p in net.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = Forward(net, loss, CPU, **settings)(batch)
    assert value.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["gpt", "resnet"])
def test_recomputed_activations_keep_less(name):
    net, batch, loss = MODELS[name]()
    assert kept_bytes(net, batch, loss, recompute=True) < 0.6 * kept_bytes(net, batch, loss)


def test_the_model_is_plain_outside_the_training_pass():
    net, batch, loss = gpt()
    names = list(net.state_dict())
    Forward(net, loss, CPU, recompute=True)(batch)
    assert list(net.state_dict()) == names
    assert not any("forward" in vars(module) for module in net.modules())
    with pytest.raises(ZeroDivisionError), Recomputed(net):
        assert all("forward" in vars(block) for block in net.blocks)
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in net.modules())


def test_blocks_are_the_repeated_parts():
    net = gpt()[0]
    assert blocks_of(net) == list(net.blocks)
    net = sequential()[0]
    assert blocks_of(net) == [net[0], net[1], net[3]]  # dropout keeps little worth dropping


def test_a_model_without_blocks_is_refused():
    with pytest.raises(RecipeError, match="activation_checkpointing: Linear has no blocks") as e:
        Recomputed(nn.Linear(2, 2))
    assert "nn.ModuleList" in e.value.hint


def test_compile_and_recompute_refuse_batch_norm():
    net, _, loss = resnet()
    with pytest.raises(RecipeError, match="running statistics twice a step") as caught:
        Forward(net, loss, CPU, compile={"backend": "eager"}, recompute=True)
    assert caught.value.hint == "leave out compile or activation_checkpointing"


@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_model_has_the_plain_gradient(recompute):
    """aot_eager traces forward and backward, and needs no C++ compiler. float64."""
    settings = {"compile": {"backend": "aot_eager"}, "recompute": recompute}
    for build in (plain_gpt, plain_gpt):
        plain, compiled = gradient(*build()), gradient(*build(), **settings)
        torch.testing.assert_close(compiled[0], plain[0], rtol=1e-12, atol=0)
        for first, second in zip(plain[1], compiled[1], strict=True):
            torch.testing.assert_close(second, first, rtol=1e-10, atol=1e-14)


def plain_gpt():
    """float64 without dropout, whose masks a compiled graph may draw in another order."""
    torch.manual_seed(0)
    net = GPT(11, layers=2, heads=2, width=8, context=6).double()
    return net, (torch.randint(11, (4, 6)), torch.randint(11, (4, 6))), NAMES["next_token"]


def test_a_compiled_run_is_the_plain_run_and_is_traced_once(tmp_path):
    """Probes, evaluations and checkpoints between the steps compile nothing anew."""
    recipe = folder(tmp_path, model="build_with_state", eval_every=5, checkpoint_every=5)
    more = ["dtype=float64", "model=model.py:build"]
    train(load_recipe(recipe, more), tmp_path / "a" / "run.h5")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = load_recipe(recipe, [*more, "compile.backend=aot_eager"])
    train(compiled, tmp_path / "b" / "run.h5")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    a, b = (torch.load(tmp_path / n / "run.pt", weights_only=True)["model"] for n in "ab")
    assert list(a) == list(b)
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-10, atol=1e-14)
    logs = [read_log(tmp_path / n / "run.h5") for n in "ab"]
    assert logs[1].probes["lambda_max"] == pytest.approx(
        logs[0].probes["lambda_max"], rel=1e-6, nan_ok=True
    )


def test_an_unknown_backend_is_one_line(tmp_path):
    recipe = folder(tmp_path)
    with pytest.raises(RecipeError, match=r"compile: torch\.compile refused .*nope") as caught:
        build_run(load_recipe(recipe, ["compile={backend: nope}"]))
    assert "inductor" in caught.value.hint


def test_a_compiler_that_fails_is_one_line(tmp_path):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    net, batch, loss = sequential()
    forward = Forward(net, loss, CPU, compile={"backend": broken})
    with pytest.raises(RecipeError, match="compile: the model cannot be compiled here: ") as caught:
        forward(batch)
    assert "no compiler here" in caught.value.message and "aot_eager" in caught.value.hint


def test_an_error_of_the_model_stays_its_own():
    net, (x, y), loss = sequential()
    forward = Forward(net, loss, CPU, compile={"backend": "eager"})
    with pytest.raises(IndexError):
        forward((x, y + 90))


@pytest.mark.parametrize("named", [True, False], ids=["named loss", "user's loss"])
def test_amp_is_the_hand_written_autocast_loop(tmp_path, named):
    """Bitwise: autocast around the model; a named loss in float32, a user's inside."""
    net, (x, y), users = sequential()
    twin, _, _ = sequential()
    found = gradient(net, (x, y), NAMES["cross_entropy"] if named else users, amp="bf16")
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = twin(x)
        loss = F.cross_entropy(outputs, y)
    assert outputs.dtype == torch.bfloat16
    if named:
        loss = F.cross_entropy(outputs.float(), y)
    loss.float().backward()
    assert found[0].dtype == torch.float32 and torch.equal(found[0], loss.detach().float())
    for first, second in zip(found[1], twin.parameters(), strict=True):
        assert first.dtype == torch.float32 and torch.equal(first, second.grad)


def test_amp_leaves_weights_and_probe_in_float32_and_says_so(tmp_path):
    recipe = folder(tmp_path, eval_every=10)
    logs = []
    for name, more in (("a", []), ("b", ["amp=bf16"])):
        train(load_recipe(recipe, more), tmp_path / name / "run.h5")
        logs.append(read_log(tmp_path / name / "run.h5"))
    plain, half = logs
    assert half.steps["loss"][0] != plain.steps["loss"][0]
    assert half.steps["loss"] == pytest.approx(plain.steps["loss"], rel=0.02)
    for column in ("lambda_max", "probe_loss"):  # at the initial weights, which are the same
        assert half.probes[column][1] == plain.probes[column][1], column
    assert half.evals["eval_loss"][0] == plain.evals["eval_loss"][0]
    kept = torch.load(tmp_path / "b" / "run.pt", weights_only=True)["model"]
    assert {t.dtype for t in kept.values()} == {torch.float32}
    (said,) = [e.message for e in half.events if e.code == "AMP"]
    assert said == "the training forward pass runs in bf16; probes and evaluations in float32"
    assert "AMP" not in [e.code for e in plain.events]


@pytest.mark.parametrize(
    ("setting", "what", "hint"),
    [
        ("amp=fp16", "fp16 needs loss scaling, which is not offered", "amp: bf16"),
        ("amp=bfloat16", "'bfloat16' is not a kind of mixed precision", "did you mean 'bf16'?"),
        ("amp=true", "true is not a kind of mixed precision", "amp: bf16, or leave the key out"),
        ("accumulate=0", "0 is too small", "at least 1"),
        ("accumulate=17", "17 parts of 16 examples", "at most 16, or a larger batch_size"),
        ("compile=yes", "'yes' is text", ""),
        ("compile={backnd: eager}", "unknown key of compile", "did you mean 'backend'?"),
        ("activation_checkpointing=2", "2 is a number, not true or false", ""),
    ],
)
def test_faults_in_words(tmp_path, setting, what, hint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder(tmp_path), [setting])
    message, said = caught.value.faults[0]
    assert what in message and hint in said, (message, said)


def test_bf16_needs_float32(tmp_path):
    with pytest.raises(RecipeError, match="bf16 needs dtype float32, not float64"):
        load_recipe(folder(tmp_path), ["amp=bf16", "dtype=float64"])


def test_compile_true_is_the_default_backend_and_false_is_none(tmp_path):
    recipe = folder(tmp_path)
    made = load_recipe(recipe, ["compile=true"]).recipe.compile
    assert made.settings() == {"backend": "inductor", "fullgraph": False}
    assert load_recipe(recipe, ["compile=false"]).recipe.compile is None
