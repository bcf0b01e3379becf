"""Fully connected network on flattened inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """inputs (B, ...) -> outputs (B, *output_shape); torch's default initialisation."""

    def __init__(
        self,
        n_inputs: int,
        hidden: Sequence[int],
        output_shape: Sequence[int],
        *,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        layers: list[nn.Module] = []
        width = n_inputs
        for size in hidden:
            layers += [nn.Linear(width, size), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        n_outputs = int(torch.Size(self.output_shape).numel())
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs; integer inputs (pixels, counts) are used as numbers."""
        weight = self.layers[-1].weight
        flat = inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None]
        return self.layers(flat.to(weight.dtype)).reshape(len(inputs), *self.output_shape)
