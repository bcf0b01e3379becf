"""Hessians written down by hand; no automatic differentiation, NumPy only."""

import numpy as np


def linear_regression(x: np.ndarray) -> np.ndarray:
    """Hessian of mean (x·w + b - y)² in (w, b): 2/N [X 1]ᵀ[X 1], whatever w, b and y are."""
    a = np.hstack([x, np.ones((len(x), 1))])
    return 2.0 / len(x) * a.T @ a


def logistic_regression(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Hessian of the mean binary cross entropy of sigmoid(x·w) in w: Xᵀ diag(p(1-p)) X / N."""
    p = 1.0 / (1.0 + np.exp(-x @ w))
    return (x * (p * (1.0 - p))[:, None]).T @ x / len(x)


def softmax_regression(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Hessian of the mean cross entropy of softmax(x Wᵀ) in W, shape (C, d), flattened by rows.

    Block (c, e) is the mean of (p_c [c = e] - p_c p_e) x xᵀ.
    """
    z = x @ w.T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n_classes, d = w.shape
    hessian = np.zeros((n_classes * d, n_classes * d))
    for row, prob in zip(x, p, strict=True):
        hessian += np.kron(np.diag(prob) - np.outer(prob, prob), np.outer(row, row))
    return hessian / len(x)
