"""HomotopyCallback inside a real Lightning Trainer."""

import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.lightning import HomotopyCallback

STEPS = 8


class Net(pl.LightningModule):
    def __init__(self, lr=5.0):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        self.lr = lr
        self.calls = 0

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        self.calls += 1
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1.0, end_factor=0.1, total_iters=STEPS
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Used(pl.Callback):
    """Notes the rate after all callbacks before the step: what the step will use."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def rows():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 6, generator=generator)
    y = torch.randint(0, 3, (64,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def train(folder, *callbacks, lr=5.0, ckpt=None, max_steps=STEPS, **more):
    torch.manual_seed(2)
    used = Used()
    trainer = pl.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator="cpu",
        default_root_dir=str(folder),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, used],
        **more,
    )
    module = Net(lr)
    trainer.fit(module, rows(), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return trainer, module, used.rates


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*is not recommended.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_each_step_uses_the_smaller_of_schedule_and_ceiling(tmp_path):
    callback = HomotopyCallback(
        estimation_freq=1, budget=float("inf"), burst=STEPS, probe_fraction=1.0
    )
    _, _, used = train(tmp_path, callback)
    history = callback.ceiling.history.steps
    schedule = [5.0 * (1 - 0.9 * t / STEPS) for t in range(STEPS)]
    assert history.column("schedule_lr") == pytest.approx(schedule)
    assert used == pytest.approx(history.column("lr"))
    assert min(u / s for u, s in zip(used, schedule, strict=True)) < 0.9
    assert all(u <= s * (1 + 1e-12) for u, s in zip(used, schedule, strict=True))


def test_the_edge_is_that_of_the_step_that_lightning_clips(tmp_path):
    """It clips after the hook: the first gradient, the same in both runs, to a norm of 1e-3."""
    levels = []
    for more in ({}, {"gradient_clip_val": 1e-3}):
        callback = HomotopyCallback(budget=float("inf"), probe_fraction=1.0)
        train(tmp_path, callback, max_steps=1, **more)
        levels.append(callback.ceiling.history.steps.column("ceiling_lr")[0])
    assert levels[1] > 50.0 * levels[0]
    value = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    callback = HomotopyCallback(budget=float("inf"), probe_fraction=1.0)
    train(tmp_path, callback, max_steps=1, **value)
    assert callback.ceiling.history.steps.column("ceiling_lr")[0] == levels[0]


def test_measuring_without_acting_is_bitwise_the_plain_trainer(tmp_path):
    _, plain, before = train(tmp_path)
    callback = HomotopyCallback(alpha=0.0, estimation_freq=2)
    _, watched, used = train(tmp_path, callback)
    assert used == before
    want = plain.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in watched.state_dict().items())
    assert callback.ceiling.last["kappa"] > 0


def test_the_probe_logs_under_its_own_name_and_silences_training_step(tmp_path):
    callback = HomotopyCallback(estimation_freq=1, budget=float("inf"), burst=STEPS)
    trainer, module, _ = train(tmp_path, callback)
    assert trainer.callback_metrics["homotopy/lambda_max"] == pytest.approx(
        callback.ceiling.last["lambda_max"], rel=1e-6
    )
    assert "log" not in module.__dict__


def test_state_travels_in_lightnings_checkpoints(tmp_path):
    settings = {"estimation_freq": 2, "budget": float("inf")}
    first = HomotopyCallback(**settings)
    trainer, _, _ = train(tmp_path, first, max_steps=4)
    trainer.save_checkpoint(tmp_path / "at4.ckpt")
    second = HomotopyCallback(**settings)
    train(tmp_path, second, ckpt=str(tmp_path / "at4.ckpt"))
    assert second.ceiling.guard.n_steps == STEPS
    assert second.ceiling.history.steps.column("step") == [float(t) for t in range(STEPS)]


def test_several_optimizers_are_refused(tmp_path):
    class Two(Net):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
        callbacks=[HomotopyCallback()],
    )
    with pytest.raises(ProblemError, match="one optimizer, got 2"):
        trainer.fit(Two(), rows())


def test_a_module_with_manual_optimization_is_told_so(tmp_path):
    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    trainer = pl.Trainer(
        max_steps=1,
        callbacks=[HomotopyCallback()],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    with pytest.raises(ProblemError, match="one optimizer, got 1 with manual optimization"):
        trainer.fit(Manual(), rows())


def test_an_old_probe_is_logged_with_its_own_step(tmp_path):
    callback = HomotopyCallback(estimation_freq=100, burst=1)
    trainer, *_ = train(tmp_path, callback)
    assert trainer.callback_metrics["homotopy/probe_step"] == callback.ceiling.guard.last_step == 4


BOTH = """
import sys
import types
for name in {imported!r}:
    if name == "lightning.pytorch" and {stand_in}:
        sys.modules["lightning"] = types.ModuleType("lightning")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].Callback = type("Callback", (), {{}})
    else:
        __import__(name)
from homotopy_cli.integrations.lightning import HomotopyCallback
print(*sorted({{base.__module__.split(".")[0] for base in HomotopyCallback.__bases__}}))
"""


@pytest.mark.parametrize(
    ("imported", "bases"),
    [
        (["pytorch_lightning"], ["pytorch_lightning"]),
        (["lightning.pytorch"], ["__main__"]),
        (["pytorch_lightning", "lightning.pytorch"], ["__main__", "pytorch_lightning"]),
    ],
)
def test_the_callback_is_one_of_the_package_that_is_imported(imported, bases):
    """The package `lightning` may be absent here: a stand-in of its name is imported first."""
    code = BOTH.format(imported=imported, stand_in=True)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == bases, done.stderr


def test_the_package_lightning_itself(tmp_path):
    """With its own Trainer, in a process that has never seen pytorch_lightning."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert "import pytorch_lightning as pl" in text
    copy = tmp_path / "test_of_lightning.py"
    body = text.replace("import pytorch_lightning as pl", "import lightning.pytorch as pl")
    copy.write_text(body.partition("\nBOTH = ")[0], encoding="utf-8")
    words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", str(copy)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
