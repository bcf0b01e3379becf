"""What a scheduler did, in bounded memory, and its two figures."""

from typing import TYPE_CHECKING, Any

import torch

from homotopy_cli.records import LR_REASONS

if TYPE_CHECKING:
    import plotly.graph_objects as go

STEP_FIELDS = ("step", "lr", "schedule_lr", "ceiling_lr", "reason")
PROBE_FIELDS = ("step", "kappa", "lambda_max", "preconditioned_sharpness", "edge_ratio")


class Series:
    """Rows of floats over a run of any length, in memory that stays bounded.

    When `capacity` rows are held, every second one is dropped and from then on only every
    second, fourth, ... is kept: the whole run stays visible, at a resolution that halves.
    """

    def __init__(self, fields: tuple[str, ...], capacity: int = 4096) -> None:
        self.fields = fields
        self.capacity = capacity
        self.rows: list[list[float]] = []
        self.stride = 1
        self.n_seen = 0

    def append(self, *row: float) -> None:
        """Add one row, in the order of `fields`; NaN where nothing was measured."""
        if self.n_seen % self.stride == 0:
            if len(self.rows) >= self.capacity:
                self.rows = self.rows[::2]
                self.stride *= 2
            if self.n_seen % self.stride == 0:
                self.rows.append([float(value) for value in row])
        self.n_seen += 1

    def column(self, name: str) -> list[float]:
        """One field of every kept row."""
        at = self.fields.index(name)
        return [row[at] for row in self.rows]

    def state_dict(self) -> dict[str, Any]:
        """A float64 tensor (n_rows, n_fields) and two counts."""
        rows = torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(self.fields))
        return {"rows": rows, "stride": self.stride, "n_seen": self.n_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the rows and the counts."""
        self.rows = state["rows"].tolist()
        self.stride, self.n_seen = state["stride"], state["n_seen"]


class History:
    """The rates of every step and the result of every probe."""

    def __init__(self) -> None:
        self.steps = Series(STEP_FIELDS)
        self.probes = Series(PROBE_FIELDS)

    def state_dict(self) -> dict[str, Any]:
        """Both series."""
        return {"steps": self.steps.state_dict(), "probes": self.probes.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both series."""
        self.steps.load_state_dict(state["steps"])
        self.probes.load_state_dict(state["probes"])

    def curvature_figure(self) -> "go.Figure":
        """κ, λ_max, preconditioned sharpness (log axis) and the edge ratio over the steps."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(
            rows=2,
            shared_xaxes=True,
            vertical_spacing=0.06,
            row_heights=[0.65, 0.35],
        )
        step = self.probes.column("step")
        for name, label in (
            ("kappa", "κ = ‖H‖/‖g‖² [1/loss]"),
            ("lambda_max", "λ_max(H) [loss/parameter²]"),
            ("preconditioned_sharpness", "λ_max(P⁻¹H) [1/lr]"),
        ):
            values = self.probes.column(name)
            if any(v == v for v in values):
                line = go.Scatter(
                    x=step, y=values, name=label, mode="lines+markers", connectgaps=True
                )
                figure.add_trace(line, row=1, col=1)
        ratio = go.Scatter(
            x=step, y=self.probes.column("edge_ratio"), name="edge ratio ηλ/c", mode="lines+markers"
        )
        figure.add_trace(ratio, row=2, col=1)
        figure.add_hline(y=1.0, line_dash="dash", annotation_text="edge of stability", row=2, col=1)
        figure.update_yaxes(type="log", title_text="curvature", row=1, col=1)
        figure.update_yaxes(title_text="ηλ/c", row=2, col=1)
        figure.update_xaxes(title_text="optimizer step", row=2, col=1)
        return figure.update_layout(title="Curvature history")

    def lr_figure(self) -> "go.Figure":
        """The learning rate with its schedule and ceiling; hover says what decided each step."""
        import plotly.graph_objects as go

        step = self.steps.column("step")
        figure = go.Figure()
        for name, label, dash in (
            ("schedule_lr", "schedule", "dot"),
            ("ceiling_lr", "curvature ceiling", "dash"),
        ):
            line = {"dash": dash}
            figure.add_scatter(x=step, y=self.steps.column(name), name=label, line=line)
        figure.add_scatter(
            x=step,
            y=self.steps.column("lr"),
            name="learning rate",
            text=[LR_REASONS[int(code)] for code in self.steps.column("reason")],
            hovertemplate="step %{x}: %{y:.3e} (%{text})<extra></extra>",
        )
        figure.update_yaxes(type="log", title_text="learning rate")
        figure.update_xaxes(title_text="optimizer step")
        return figure.update_layout(title="Learning-rate history")
