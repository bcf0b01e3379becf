"""HomotopyCallback inside a real transformers.Trainer."""

import functools

import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.clipping import ClipWatch
from homotopy_cli.integrations.transformers import STATE_FILE, HomotopyCallback

STEPS = 8
PLAIN = Accelerator.clip_grad_norm_


class Rows(torch.utils.data.Dataset):
    def __init__(self, labels=True):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 50, (64, 12), generator=generator)
        self.labels = labels

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        row = {"input_ids": self.tokens[index]}
        return row | ({"labels": self.tokens[index]} if self.labels else {})


def train(folder, *callbacks, lr=0.5, resume=None, **more):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.1
    )
    model = GPT2LMHeadModel(config)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        learning_rate=lr,
        lr_scheduler_type="linear",
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        seed=1,
        **({"save_strategy": "no"} | more),
    )
    trainer = Trainer(model=model, args=args, train_dataset=Rows(), callbacks=list(callbacks))
    used = []  # the rate of every optimizer step, read when it is taken
    trainer.create_optimizer().register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, used


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


def test_each_step_uses_the_smaller_of_schedule_and_ceiling(tmp_path, plain):
    callback = HomotopyCallback(estimation_freq=1, budget=float("inf"), burst=STEPS)
    _, used = train(tmp_path, callback)
    rows = callback.ceiling.history.steps
    schedule = [0.5 * (1 - t / STEPS) for t in range(STEPS)]
    assert rows.column("schedule_lr") == pytest.approx(schedule)
    assert used == pytest.approx(rows.column("lr"))
    assert used[0] < 0.1 * schedule[0]  # 0.5 is far beyond the edge of a fresh GPT
    assert all(u <= s * (1 + 1e-12) for u, s in zip(used, schedule, strict=True))
    assert plain[1] == pytest.approx(schedule)


def test_the_trainers_log_shows_the_probes(tmp_path):
    callback = HomotopyCallback(estimation_freq=1, budget=float("inf"), burst=STEPS)
    trainer, _ = train(tmp_path, callback)
    logged = [row for row in trainer.state.log_history if "homotopy/edge_ratio" in row]
    assert len(logged) >= STEPS - 1
    assert all(0 < row["homotopy/factor"] <= 1 for row in logged)
    steps = [row["homotopy/probe_step"] for row in logged]
    assert steps == [row["step"] - 1 for row in logged]  # a probe at every step, before it


def test_an_old_probe_is_logged_with_its_own_step(tmp_path):
    callback = HomotopyCallback(estimation_freq=100, burst=1)
    trainer, _ = train(tmp_path, callback)
    steps = [row["homotopy/probe_step"] for row in trainer.state.log_history if "loss" in row]
    assert steps == [0, 1, 2, 2, 4, 4, 4, 4]  # those at 0, 1, 2, 4 are guaranteed


class Told:
    """What the ceiling was told of every step."""

    def __init__(self, ceiling):
        self.plain, self.rows = ceiling.before_step, []
        ceiling.before_step = self

    def __call__(self, batch, **given):
        self.rows.append({k: v if v is None else float(v) for k, v in given.items()})
        self.plain(batch, **given)


class Listening(HomotopyCallback):
    def on_train_begin(self, *given, **named):
        super().on_train_begin(*given, **named)
        self.told = Told(self.ceiling)


@pytest.mark.parametrize("limit", [0.0, 0.05, 1e6])
def test_the_ceiling_is_told_how_the_trainer_clipped(tmp_path, limit):
    callback = Listening()
    trainer, _ = train(tmp_path, callback, max_grad_norm=limit, lr=1e-3)
    logged = [row for row in trainer.state.log_history if "grad_norm" in row]
    for row, told in zip(logged, callback.told.rows, strict=True):
        norm = row["grad_norm"]
        assert told["grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert told["loss"] == pytest.approx(row["loss"], rel=1e-3)
        expected = min(1.0, limit / norm) if limit else 1.0
        assert told["clip_coef"] == pytest.approx(expected, rel=1e-3)


def test_a_part_of_the_steps_loss_is_not_given_for_it(tmp_path):
    callback = Listening()
    train(tmp_path, callback, gradient_accumulation_steps=2, lr=1e-3)
    assert {row["loss"] for row in callback.told.rows} == {None}


def test_the_edge_under_clipping_is_that_of_the_step_that_is_taken(tmp_path):
    """Adam's step of a clipped gradient is that of the gradient, and so is its edge.

    Clipping by 1/700 would else read 700 times too near; 1.5 leaves room for the metric's start.
    """
    edges = []
    for limit in (1e-3, 1e6):
        callback = HomotopyCallback(estimation_freq=1, budget=float("inf"), alpha=0.0)
        train(tmp_path / str(limit), callback, max_grad_norm=limit, lr=1e-6)
        probes = callback.ceiling.history.probes
        edges.append(dict(zip(probes.column("step"), probes.column("edge_ratio"), strict=True)))
    common = sorted(edges[0].keys() & edges[1].keys())[1:]  # at first Adam's metric is |g| alone
    assert len(common) >= 4
    for step in common:
        assert 1 / 1.5 < edges[0][step] / edges[1][step] < 1.5


def test_two_trainers_hear_only_of_their_own_optimizer():
    model = torch.nn.Linear(2, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2)]
    accelerators = [Accelerator(cpu=True) for _ in optimizers]
    for accelerator, optimizer in zip(accelerators, optimizers, strict=True):
        accelerator.prepare(optimizer)
    watches = [ClipWatch(optimizer) for optimizer in optimizers]
    model(torch.ones(4, 2)).sum().backward()
    norm = accelerators[0].clip_grad_norm_(model.parameters(), 1.0)
    assert watches[0].take() == (1.0 / float(norm), float(norm))
    assert watches[0].take() == watches[1].take() == (1.0, None)
    for value, wanted in ((float("inf"), 0.0), (float("nan"), None)):
        model.weight.grad.fill_(value)
        accelerators[0].clip_grad_norm_(model.parameters(), 1.0)
        found = watches[0].take()[0]
        assert found == wanted or (wanted is None and found != found)
    watches[0].close()
    assert Accelerator.clip_grad_norm_ is not PLAIN
    watches[1].close()
    assert Accelerator.clip_grad_norm_ is PLAIN


def test_another_tools_wrapper_around_ours_stays(monkeypatch):
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", PLAIN)  # put back at the end
    monkeypatch.setattr("homotopy_cli.integrations.clipping._OURS", [])
    model, calls = torch.nn.Linear(2, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(optimizer)
    watch = ClipWatch(optimizer)
    ours = Accelerator.clip_grad_norm_

    @functools.wraps(ours)
    def theirs(*args, **named):
        calls.append(1)
        return ours(*args, **named)

    Accelerator.clip_grad_norm_ = theirs
    watch.close()
    assert Accelerator.clip_grad_norm_ is theirs
    watch = ClipWatch(optimizer)
    assert Accelerator.clip_grad_norm_ is theirs
    model(torch.ones(4, 2)).sum().backward()
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    assert calls == [1] and watch.take()[1] == float(norm)
    Accelerator.clip_grad_norm_ = PLAIN  # without a word to us
    watch.close()
    ClipWatch(optimizer).close()
    assert Accelerator.clip_grad_norm_ is PLAIN


def test_the_loss_of_a_slice_is_a_mean_although_the_trainer_counts_targets(tmp_path):
    """The Trainer gives the model the number of targets of its whole step to divide by."""
    callback = HomotopyCallback(estimation_freq=1, budget=float("inf"), burst=STEPS)
    trainer, _ = train(tmp_path, callback, gradient_accumulation_steps=2)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert callback.ceiling.last["probe_loss"] == pytest.approx(losses[-1], rel=0.15)


def test_measuring_without_acting_is_bitwise_the_plain_trainer(tmp_path, plain):
    trainer, used = train(tmp_path, HomotopyCallback(alpha=0.0, estimation_freq=2))
    assert used == plain[1]
    before = plain[0].model.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_a_resumed_run_goes_on_with_the_same_ceiling(tmp_path):
    settings = {"estimation_freq": 2, "budget": float("inf")}
    whole, used = train(
        tmp_path / "whole", HomotopyCallback(**settings), save_strategy="steps", save_steps=4
    )
    saved = tmp_path / "whole" / "checkpoint-4"
    assert torch.load(saved / STATE_FILE, weights_only=True)["guard"]["n_steps"] == 4
    again, rest = train(
        tmp_path / "whole", HomotopyCallback(**settings), resume=str(saved), save_strategy="no"
    )
    assert rest == pytest.approx(used[4:], rel=1e-12)
    want = whole.model.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in again.model.state_dict().items())


def test_no_hook_stays_behind(tmp_path):
    callback = HomotopyCallback()
    trainer, _ = train(tmp_path, callback)
    assert not trainer.model._forward_pre_hooks and not trainer.model._forward_hooks
    assert Accelerator.clip_grad_norm_ is PLAIN
    assert callback.ceiling.last["preconditioned_sharpness"] > 0
    assert not callback.ceiling.optimizer._optimizer_step_post_hooks.keys() & {
        callback.ceiling._hook.id
    }


def test_a_model_without_labels_is_told_what_is_missing(tmp_path):
    callback = HomotopyCallback()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ProblemError, match="returned no loss") as caught:
        callback._loss(model, {"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    assert "labels" in caught.value.hint
