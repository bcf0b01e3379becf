"""The edge ratio to stay under where none is given: how near its edge a network may train.

    signal, network                              mode guard   mode auto
    λ(P⁻¹H), whose P is live                     0.9          1
    trust ratio                                  0.75
    λ(H), a network that normalises              0.9          0.9
    λ(H), one that does not, with momentum       0.5          0.35
    λ(H), one that does not, without momentum    0.9          0.5
    λ(H), fewer than two weight matrices         0.9          as above

A weight in front of a normalisation has no scale: a step that is too long only makes it larger,
and the next ones smaller in proportion (Arora, Li and Lyu 2019, arXiv:1812.03981), so that the
network comes back from beyond the edge. A deep one without has no such brake, its curvature grows
by several times within tens of steps, and at the edge of heavy ball the effective rate is 19 times
that of plain descent at its own. A model that is linear in its weights does not sharpen.

Measured, momentum 0.9, a warmup of 10 % and a cosine, digits, 400 steps, four seeds, losses under
0.9 / 0.5 / 0.35. A ReLU MLP at ten times its best rate: 0.03 to 0.17 / 0.01 to 0.03 / 0.01 to
0.02, at thirty times one of four lost / none / none; a convolutional net without normalisation:
one lost / none / none, and three / two / none; at their best rates held-out losses of 0.05 / 0.05
/ 0.06 and 0.02 / 0.03 / 0.03. Mode auto, that net: two of four lost under 0.5, none under 0.35.
With normalisation, mode auto under 0.35 / 0.5 / 0.9: ResNet-8 on CIFAR-10 44.9 / 48.9 / 48.7 %
(the best cosine 47.3), a two-layer GPT 2.38 / 2.28 / 2.10 (2.13).
"""

import re
from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from homotopy_cli.curvature.families import PRECONDITIONED, optimizer_family
from homotopy_cli.schedulers.settings import GuardSettings

TARGET = 0.9  # edge ratio to stay under; all numbers here are our choice, by the runs above
TRUST_TARGET = 0.75  # the same of a watched step: a trust ratio of 1/4
TARGET_OF_AUTO = 1.0  # of mode auto where λ(P⁻¹H) steers
UNBRAKED = {"guard": 0.5, "auto": 0.35}  # momentum and no normalisation
UNBRAKED_PLAIN = {"guard": TARGET, "auto": 0.5}  # neither
NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
NORM_NAME = re.compile(r"(layer|batch|group|instance|rms)_?norm", re.IGNORECASE)


def target_of(
    settings: GuardSettings,
    optimizer: Optimizer,
    model: nn.Module,
    signal: str,
    say: Callable[[int, str, str, str], None],
    *,
    auto: bool,
) -> float:
    """The edge ratio to stay under: the given one, or this optimizer's and network's of the table.

    Args:
        settings: Its `target`, where it has one, is the answer.
        optimizer: Its class and momentum count; one without `momentum` is taken to have some.
        model: Its modules and the shapes of its parameters count.
        signal: Resolved, not "auto".
        say: Takes step, level, code and message of an event, where a network is held low.
        auto: Mode auto.
    """
    if settings.target is not None:
        return settings.target
    if signal == "kappa":  # steers by a target of its own
        return TARGET
    if signal == "trust_ratio":
        return TRUST_TARGET
    if optimizer_family(optimizer) in PRECONDITIONED:
        return TARGET_OF_AUTO if auto else TARGET
    if normalises(model) or not (auto or is_deep(model)):
        return TARGET
    plain = all(group.get("momentum") == 0.0 for group in optimizer.param_groups)
    found = (UNBRAKED_PLAIN if plain else UNBRAKED)["auto" if auto else "guard"]
    if found < TARGET:
        text = f"no normalisation: rates stay below {found} of the edge, not {TARGET}"
        say(0, "info", "TARGET", text)
    return found


def normalises(model: nn.Module) -> bool:
    """Whether any module is a normalisation: one of torch's, or one called so (LlamaRMSNorm).

    A function called in `forward` is not seen.
    """
    return any(
        isinstance(module, NORMS) or NORM_NAME.search(type(module).__name__)
        for module in model.modules()
    )


def is_deep(model: nn.Module) -> bool:
    """Whether at least two parameters are matrices, or of more axes: weights that multiply."""
    return sum(parameter.ndim >= 2 for parameter in model.parameters()) >= 2
