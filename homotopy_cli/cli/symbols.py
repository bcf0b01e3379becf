"""What each number is called, by the matrix that `--curvature` had measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Symbols:
    """The matrix, and the gradient that its κ is made with."""

    matrix: str  # its letter: H, G or M
    meaning: str  # in words; "" of the Hessian
    top: str
    scaled: str  # its top eigenvalue in the optimizer's metric
    grad: str = "‖g‖"  # of κ, and of a layer

    def of(self, name: str) -> str:
        """`name` of this matrix; nothing is added for the Hessian."""
        return name if self.matrix == "H" else f"{name}({self.matrix})"

    @property
    def kappa(self) -> str:
        """The definition of κ."""
        return f"κ = ‖{self.matrix}‖₂/{self.grad}²"


_BY_CURVATURE = {
    "hessian": Symbols("H", "", "λ_max (sharpness)", "λ_max(P⁻¹H)"),
    "ggn": Symbols("G", "the Gauss-Newton matrix", "λ_max(G)", "λ_max(P⁻¹G)"),
    "preconditioned": Symbols(
        "M", "P^-1/2 H P^-1/2", "λ_max(P⁻¹H)", "λ_max(P⁻¹H)", grad="‖P^-1/2 g‖"
    ),
}


def symbols(curvature: str) -> Symbols:
    """The names for one kind of `--curvature`."""
    return _BY_CURVATURE[curvature]
