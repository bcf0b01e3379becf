"""The estimator and its peers on a GPU, on networks of the size that people train there.

    pip install '.[bench]'
    python -m tests.benchmarks.gpu --out sample_runs/benchmarks

Half-trained as in models.py. Seconds between two synchronisations, G in those of one forward and
backward pass, memory as the allocator's peak over that of this pass. There is no float64 oracle at
this size: a value comes with its own residual where the method has one. Peers run under the plain
attention kernel, which they need; this library chooses its own.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from homotopy_cli.zoo.gpt import GPT
from homotopy_cli.zoo.residual import DeepResNet
from tests.benchmarks.models import Case, criterion, digits, markov_text, textures
from tests.benchmarks.questions import Answer, Contender

ROUNDS = 2


def main() -> None:
    """Measure what the time allows and write gpu.json and gpu.md after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sample_runs/benchmarks"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a check of this script, on a CPU")
    parser.add_argument("--seconds", type=float, default=300.0, help="begin nothing after that")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from tests.benchmarks import ours, rivals

    contenders = [
        c
        for c in (*ours.CONTENDERS, *rivals.CONTENDERS)
        if c.question in ("lambda_max", "top 10", "layers")
        and not (c.question == "top 10" and c.name.startswith("PyHessian"))  # thousands of products
    ]
    end = time.perf_counter() + options.seconds
    rows: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for build in (mlp, resnet18, gpt):
        case = build(options.device, options.small)
        rows += compare(case, contenders, end)
        (options.out / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "gpu.md").write_text(table(rows, options.device))


def mlp(device: str, small: bool) -> Case:
    """64-1024-1024-10 ReLU on images of digits, batch 1,024."""
    width, rows = (32, 64) if small else (1024, 1024)
    nn = torch.nn
    torch.manual_seed(0)
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10)).to(device)
    x, y = (part.to(device) for part in digits(rows))
    return trained("mlp", model, x, y, lr=0.1, steps=100)


def resnet18(device: str, small: bool) -> Case:
    """ResNet-18 with the CIFAR stem, batch 256."""
    torch.manual_seed(0)
    x, y = (part.to(device) for part in textures(32 if small else 256))
    model = DeepResNet(18, 3, 10, stem="cifar", width=8 if small else 64).to(device)
    return trained("resnet18", model, x, y, lr=0.05, steps=5 if small else 60)


def gpt(device: str, small: bool) -> Case:
    """GPT-2 small: 12 layers, width 768, 256 tokens, batch 8, vocabulary 50,257."""
    sizes = {"layers": 2, "heads": 2, "width": 32} if small else {"layers": 12, "heads": 12}
    vocabulary, context, rows = (256, 16, 4) if small else (50_257, 256, 8)
    torch.manual_seed(0)
    model = GPT(vocabulary, **{"width": 768, **sizes}, context=context).to(device)
    tokens = markov_text(rows * (context + 1), vocabulary=512).view(rows, context + 1).to(device)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return trained("gpt", model, x, y, lr=0.1, steps=5 if small else 50)


def trained(
    name: str, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, *, lr: float, steps: int
) -> Case:
    """A few steps of momentum on the one batch, then eval mode."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    matrices = [key for key, p in model.named_parameters() if p.dim() > 1]
    last = len(matrices) - 1
    some = sorted({round(i * last / 4) for i in range(5)})
    return Case(name, model, (x, y), tuple(matrices[i] for i in some), loss.item())


def compare(case: Case, contenders: list[Contender], end: float) -> list[dict[str, Any]]:
    """One row for each method; the values of one question are set beside each other."""
    unit, memory = gradient_cost(case)
    rows = []
    for contender in contenders:
        head = {
            "case": case.name,
            "n_params": case.n_params,
            "loss": round(case.loss, 4),
            "gradient_ms": round(1e3 * unit, 3),
            "question": contender.question,
            "method": contender.name,
        }
        if time.perf_counter() > end:
            rows.append(head | {"failure": "not run: out of time"})
            continue
        try:
            rows.append(head | cost_of(contender, case, unit, memory))
        except Exception as error:
            words = str(error).splitlines() or [""]
            rows.append(head | {"failure": f"{type(error).__name__}: {words[0][:80]}"})
        torch.cuda.empty_cache() if torch.cuda.is_available() else None
    return rows


def cost_of(contender: Contender, case: Case, unit: float, memory: int) -> dict[str, Any]:
    """The median cost over ROUNDS, and the last answer."""
    mine = contender.name.startswith("ours")
    spent, peaks = [], []
    answer = Answer((), 0)
    for seed in range(1, ROUNDS + 1):
        kernel = contextlib.nullcontext() if mine else sdpa_kernel(SDPBackend.MATH)
        with kernel, contextlib.redirect_stdout(io.StringIO()):
            seconds, peak, answer = timed(lambda s=seed: contender.run(case, s), case)
        spent.append(seconds)
        peaks.append(peak)
    return {
        "values": list(answer.values),
        "residuals": list(answer.stated),
        "certified": answer.certified,
        "products": answer.n_products,
        "seconds": round(statistics.median(spent), 4),
        "G": round(statistics.median(spent) / unit, 1),
        "memory": round(max(peaks) / memory, 2) if memory else None,
    }


def gradient_cost(case: Case) -> tuple[float, int]:
    """Seconds and peak bytes of one forward and backward pass, the median of 20."""

    def once() -> None:
        torch.autograd.grad(criterion(case.model(case.batch[0]), case.batch[1]), case.params)

    for _ in range(3):
        once()
    runs = [timed(once, case)[:2] for _ in range(20)]
    return statistics.median(s for s, _ in runs), runs[-1][1]


def timed(run: Callable[[], Any], case: Case) -> tuple[float, int, Any]:
    """Seconds, peak bytes above those held before, and what `run` returned."""
    on_gpu = case.batch[0].is_cuda
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if on_gpu else 0
    started = time.perf_counter()
    result = run()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated() - held if on_gpu else 0, result


def table(rows: list[dict[str, Any]], device: str) -> str:
    """The rows as Markdown."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    lines = [f"# On {name}, torch {torch.__version__}", ""]
    lines += ["| network | question | method | value | products | G | s | memory |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        head = f"| {row['case']} ({row['n_params']:,}) | {row['question']} | {row['method']} | "
        if "failure" in row:
            lines.append(f"{head}{row['failure']} | | | | |")
            continue
        sure = f" ± {row['residuals'][0]:.1g}" if row["residuals"] else ""
        lines.append(
            f"{head}{row['values'][0]:.6g}{sure} | {row['products']} | {row['G']} | "
            f"{row['seconds']} | {row['memory'] or ''} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
