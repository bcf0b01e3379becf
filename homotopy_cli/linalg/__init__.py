"""Symmetric operators and the iterations on them; this layer knows vectors, not networks.

    operator.py         LinearOperator: n, dtype, device, matvec; DenseOperator for small matrices
    vectors.py          the only inner product, and the only random vectors
    basis.py            an orthonormal basis that grows, and the projection onto its complement
    lanczos.py          the Lanczos recurrence with full reorthogonalisation
    extreme.py          extreme eigenvalues with residual bounds, on an unlimited basis
    thick_restart.py    the same in bounded memory
    power_iteration.py  the textbook method: one vector of memory, slow, sign kept
    hutchinson.py       trace and squared Frobenius norm by random probes, with standard errors
    student.py          standard errors that cover a mean of few samples
    slq.py              spectral density by stochastic Lanczos quadrature

A vector of the parameter space is one flat tensor (n,). Every number that leaves this layer
says how far to trust it: eigenvalues carry a residual, randomised means a standard error.
"""
