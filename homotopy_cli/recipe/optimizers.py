"""Optimizers a recipe can name: every torch.optim class that steps without a closure.

The keyword table keeps this layer free of torch; a test compares it with the constructors
of the installed torch. What a recipe leaves out keeps torch's own default. `capturable` and
`differentiable` are left out on purpose: they change how a step is recorded, not what it is.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model

from homotopy_cli.recipe.values import (
    Count,
    Flag,
    Fraction,
    NonNegative,
    Positive,
    Real,
    Spec,
    Text,
    choice,
)

Betas = Annotated[tuple[Fraction, ...], Field(min_length=2, max_length=2)]
Pair = Annotated[tuple[Real, ...], Field(min_length=2, max_length=2)]
Triple = Annotated[tuple[Real, ...], Field(min_length=3, max_length=3)]

_TYPES: dict[str, tuple[Any, str]] = {
    "lr": (Positive, "base learning rate of every parameter group (parameter²/loss for SGD)"),
    "betas": (Betas, "decay of the first and second moment, per step"),
    "momentum": (Fraction, "decay of the momentum buffer, per step"),
    "dampening": (Fraction, "share of the gradient kept out of the momentum buffer"),
    "nesterov": (Flag, "Nesterov momentum; needs momentum > 0 and dampening 0"),
    "weight_decay": (NonNegative, "decay rate: coupled (L2) or decoupled, as the class does it"),
    "eps": (Positive, "added to the denominator (unit of a gradient)"),
    "amsgrad": (Flag, "use the largest second moment so far"),
    "alpha": (Fraction, "decay of the squared-gradient average, per step"),
    "rho": (Fraction, "decay of the squared-gradient average, per step"),
    "centered": (Flag, "subtract the squared mean gradient"),
    "lr_decay": (NonNegative, "lr is divided by 1 + step*lr_decay"),
    "initial_accumulator_value": (NonNegative, "start of the squared-gradient sum"),
    "momentum_decay": (NonNegative, "decay of the momentum schedule"),
    "decoupled_weight_decay": (Flag, "apply weight decay to the weights, not to the gradient"),
    "lambd": (NonNegative, "decay term"),
    "t0": (NonNegative, "step at which averaging starts"),
    "etas": (Pair, "factors of step decrease and increase"),
    "step_sizes": (Pair, "smallest and largest step"),
    "beta2_decay": (Real, "exponent of the second moment's decay"),
    "d": (Positive, "clipping threshold of the update's root mean square"),
    "ns_coefficients": (Triple, "coefficients of the Newton-Schulz iteration"),
    "ns_steps": (Count, "Newton-Schulz iterations"),
    "adjust_lr_fn": (Text, "original or match_rms_adamw"),
    "maximize": (Flag, "ascend instead of descend"),
    "foreach": (Flag, "multi-tensor implementation"),
    "fused": (Flag, "fused implementation"),
}
_SPECIAL: dict[tuple[str, str], tuple[Any, str]] = {
    ("adafactor", "eps"): (Pair, "regularisation of the squared gradient and of the scale"),
    ("asgd", "alpha"): (NonNegative, "power of the eta update"),
}
_COMMON = "maximize foreach"
_KEYWORDS: dict[str, tuple[str, str]] = {  # recipe name -> class of torch.optim, its keywords
    "adadelta": ("Adadelta", f"rho eps weight_decay {_COMMON}"),
    "adafactor": ("Adafactor", f"beta2_decay eps d weight_decay {_COMMON}"),
    "adagrad": (
        "Adagrad",
        f"lr_decay weight_decay initial_accumulator_value eps fused {_COMMON}",
    ),
    "adam": (
        "Adam",
        f"betas eps weight_decay amsgrad fused decoupled_weight_decay {_COMMON}",
    ),
    "adamax": ("Adamax", f"betas eps weight_decay {_COMMON}"),
    "adamw": ("AdamW", f"betas eps weight_decay amsgrad fused {_COMMON}"),
    "asgd": ("ASGD", f"lambd alpha t0 weight_decay {_COMMON}"),
    "muon": ("Muon", "weight_decay momentum nesterov ns_coefficients eps ns_steps adjust_lr_fn"),
    "nadam": (
        "NAdam",
        f"betas eps weight_decay momentum_decay decoupled_weight_decay {_COMMON}",
    ),
    "radam": ("RAdam", f"betas eps weight_decay decoupled_weight_decay {_COMMON}"),
    "rmsprop": ("RMSprop", f"alpha eps weight_decay momentum centered {_COMMON}"),
    "rprop": ("Rprop", f"etas step_sizes {_COMMON}"),
    "sgd": ("SGD", f"momentum dampening weight_decay nesterov fused {_COMMON}"),
}
TORCH_OPTIMIZERS: dict[str, str] = {name: cls for name, (cls, _) in _KEYWORDS.items()}
NEEDS_A_CLOSURE = ("lbfgs",)
NEEDS_SPARSE_GRADIENTS = ("sparseadam",)


def keywords(name: str) -> tuple[str, ...]:
    """The constructor keywords of a named torch optimizer that a recipe may set, lr first."""
    return ("lr", *_KEYWORDS[name][1].split())


def _torch_spec(name: str) -> type[Spec]:
    fields: dict[str, Any] = {"name": (Literal[name], Field(description="torch.optim class"))}
    for key in keywords(name):
        kind, meaning = _SPECIAL.get((name, key), _TYPES[key])
        if key == "lr":
            fields[key] = (kind, Field(description=meaning))
        else:
            fields[key] = (kind | None, Field(default=None, description=meaning))
    return create_model(
        f"Optimizer_{name}", __base__=Spec, __doc__=f"torch.optim.{_KEYWORDS[name][0]}", **fields
    )


class UserOptimizer(Spec):
    """`package.module:Class`, called with the parameters and every other key as a keyword.

    By the name of its first argument it gets `model` or `named_parameters` instead.
    """

    model_config = ConfigDict(extra="allow")

    name: Text = Field(description="package.module:Class or file.py:Class")
    lr: Positive | None = Field(default=None, description="base learning rate, if it takes one")


TORCH_SPECS: dict[str, type[Spec]] = {name: _torch_spec(name) for name in _KEYWORDS}


OptimizerSpec = choice(TORCH_SPECS, user=UserOptimizer)
