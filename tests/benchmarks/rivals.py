"""The same questions to curvlinops, PyHessian and hessian-eigenthings, as their users ask them.

Each gets what it needs to run at all (attention written out, eval mode), its documented call, and
the settings that reach the tolerance asked for where it has them.
"""

import contextlib
import io

import curvlinops
import hessian_eigenthings as eigenthings
import numpy as np
import pyhessian
import torch
from scipy.sparse.linalg import eigsh

from tests.benchmarks.models import Case, criterion
from tests.benchmarks.questions import Answer, Contender


class _Counted:
    """Counts products of an operator that scipy or a library calls."""

    def __init__(self, operator, attribute):
        self.n, inner = 0, getattr(operator, attribute)

        def counted(*args, **kwargs):
            self.n += 1
            return inner(*args, **kwargs)

        setattr(operator, attribute, counted)


# --------------------------------------------------------------------------------- curvlinops


class _CrossEntropy(torch.nn.CrossEntropyLoss):
    """`criterion` as the module with a `reduction` that curvlinops asks for."""

    def forward(self, output, target):
        return criterion(output, target)


def _curvlinops(case: Case, names: tuple[str, ...] = ()):
    chosen = [p for k, p in case.model.named_parameters() if not names or k in names]
    return curvlinops.HessianLinearOperator(
        case.model, _CrossEntropy(), chosen, [case.batch], check_deterministic=False
    )


def _eigsh(operator, k, which, tol, seed):
    scipy = operator.to_scipy()
    counted = _Counted(scipy, "matvec")
    v0 = np.random.default_rng(seed).standard_normal(scipy.shape[0]).astype(np.float32)
    values = eigsh(scipy, k=k, which=which, tol=tol, v0=v0, return_eigenvectors=False)
    return np.sort(values)[::-1], counted.n


def curvlinops_lambda_max(case: Case, seed: int) -> Answer:
    values, n = _eigsh(_curvlinops(case), 1, "LA", 1e-3, seed)
    return Answer((float(values[0]),), n)


def curvlinops_top(case: Case, seed: int) -> Answer:
    values, n = _eigsh(_curvlinops(case), 10, "LA", 1e-3, seed)
    return Answer(tuple(map(float, values)), n)


def curvlinops_trace(case: Case, seed: int) -> Answer:
    torch.manual_seed(seed)
    found = curvlinops.hutchpp_trace(_curvlinops(case), num_matvecs=99)
    return Answer((float(found),), 99)


def curvlinops_layers(case: Case, seed: int) -> Answer:
    values, total = [], 0
    for name in case.layers:
        found, n = _eigsh(_curvlinops(case, (name,)), 1, "LA", 1e-3, seed)
        values.append(float(found[0]))
        total += n
    return Answer(tuple(values), total)


# ---------------------------------------------------------------------------------- PyHessian


def _pyhessian(case: Case):
    return pyhessian.hessian(case.model, criterion, data=case.batch, cuda=case.batch[0].is_cuda)


def pyhessian_lambda_max(case: Case, seed: int) -> Answer:
    torch.manual_seed(seed)
    values, _ = _pyhessian(case).eigenvalues(maxIter=1000, tol=1e-6, top_n=1)
    return Answer((float(values[0]),), float("nan"))


def pyhessian_top(case: Case, seed: int) -> Answer:
    torch.manual_seed(seed)
    values, _ = _pyhessian(case).eigenvalues(maxIter=1000, tol=1e-5, top_n=10)
    return Answer(tuple(map(float, values)), float("nan"))


def pyhessian_trace(case: Case, seed: int) -> Answer:
    torch.manual_seed(seed)
    samples = _pyhessian(case).trace(maxIter=400, tol=1e-5)
    return Answer((float(np.mean(samples)),), len(samples))


def pyhessian_density(case: Case, seed: int) -> Answer:
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        nodes, weights = _pyhessian(case).density(iter=100, n_v=1)
    weights = np.asarray(weights).reshape(-1)
    return Answer((), 100, nodes=np.asarray(nodes).reshape(-1), weights=weights / weights.sum())


# ------------------------------------------------------------------------ hessian-eigenthings


def _eigenthings(case: Case, only: str | None = None):
    chosen = None if only is None else (lambda name, parameter: name == only)
    return eigenthings.HessianOperator(
        case.model,
        [case.batch],
        lambda model, batch: criterion(model(batch[0]), batch[1]),
        param_filter=chosen,
    )


def _converged(found) -> bool:
    return bool(np.all(np.asarray(getattr(found, "converged", False))))


def _values(found) -> tuple[float, ...]:
    return tuple(sorted((float(v) for v in found.eigenvalues), reverse=True))


def eigenthings_lambda_max(case: Case, seed: int) -> Answer:
    found = eigenthings.lanczos(_eigenthings(case), k=1, max_iter=40, which="LA", seed=seed)
    return Answer(_values(found)[:1], 40, certified=_converged(found))


def eigenthings_top(case: Case, seed: int) -> Answer:
    found = eigenthings.lanczos(
        _eigenthings(case), k=10, max_iter=100, which="LA", seed=seed, reorthogonalize=True
    )
    return Answer(_values(found), 100, certified=_converged(found))


def eigenthings_trace(case: Case, seed: int) -> Answer:
    found = eigenthings.trace(_eigenthings(case), num_matvecs=100, seed=seed)
    value = getattr(found, "trace", None)
    value = float(found.estimate if value is None else value)
    return Answer((value,), 100)


def eigenthings_density(case: Case, seed: int) -> Answer:
    found = eigenthings.spectral_density(
        _eigenthings(case), num_runs=1, lanczos_steps=80, seed=seed
    )
    weights = np.clip(np.asarray(found.density, dtype=float), 0.0, None)
    return Answer(
        (), 80, nodes=np.asarray(found.grid, dtype=float), weights=weights / weights.sum()
    )


def eigenthings_layers(case: Case, seed: int) -> Answer:
    values = []
    for name in case.layers:
        found = eigenthings.lanczos(
            _eigenthings(case, name), k=1, max_iter=20, which="LA", seed=seed
        )
        values.append(_values(found)[0])
    return Answer(tuple(values), 20 * len(case.layers))


CONTENDERS = (
    Contender("curvlinops + eigsh", "lambda_max", curvlinops_lambda_max),
    Contender("curvlinops + eigsh", "top 10", curvlinops_top),
    Contender("curvlinops Hutch++ 99", "trace", curvlinops_trace),
    Contender("curvlinops + eigsh", "layers", curvlinops_layers),
    Contender("PyHessian tol 1e-6", "lambda_max", pyhessian_lambda_max),
    Contender("PyHessian tol 1e-5", "top 10", pyhessian_top),
    Contender("PyHessian tol 1e-5", "trace", pyhessian_trace),
    Contender("PyHessian", "density", pyhessian_density),
    Contender("hessian-eigenthings 40 steps", "lambda_max", eigenthings_lambda_max),
    Contender("hessian-eigenthings 100 steps", "top 10", eigenthings_top),
    Contender("hessian-eigenthings Hutch++ 100", "trace", eigenthings_trace),
    Contender("hessian-eigenthings 80 steps", "density", eigenthings_density),
    Contender("hessian-eigenthings 20 steps", "layers", eigenthings_layers),
)
