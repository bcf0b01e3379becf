"""From a Problem to a torch-free record: the single estimator that probe and train share.

    hvp.py           the gradient with its graph, and products with the Hessian from it
    backward.py      one pass through that graph; vectors from gradients by parameter
    facts.py         what one rank's graph says of the loss, and what all say together
    sharded.py       products of a model that stays sharded (FSDP2)
    agreement.py     ranks agree on what they measure before they begin
    finite.py        refuses NaN and infinity by the parameter's name
    differences.py   products without a second derivative: differences of gradients
    steps.py         how long a finite step may be: measured
    ggn.py           the Gauss-Newton matrix by the same interface
    nodes.py         what an autograd graph says of itself: kinks, custom functions
    checks.py        are the products right? symmetry, a finite difference, kinks
    rounding.py      what rounding did: the same in float64
    mixed.py         cheap products find the vector that exact ones certify
    operators.py     those products as symmetric operators: whole, one block, preconditioned
    precondition.py  the diagonal metric P of an optimizer, live or saved
    families.py      which optimizers have one that is known
    config.py        how much effort: the presets `thorough` (probe) and `cheap` (training)
    forecast.py      what it will cost
    cost.py          what it took; meter.py: products counted, and timed
    run.py           one estimate in the making
    density.py       the eigenvalue density
    estimator.py     CurvatureEstimator: Problem -> CurvatureEstimate
    spectrum.py      eigenvalues of an operator, as records
    moments.py       traces of all blocks and the Frobenius norm from the same few products
    blocks.py        the per-layer table
    warm.py          start vectors remembered between probes
    along.py         curvature along the step itself, by ordinary passes
    critical.py      the rate at which a step along -g would leave the loss where it was
    taken.py         how a step that an optimizer took changed the loss
    noise.py         batch sharpness and the gradient noise scale
    curvature_ratio.py  the one-number interface, estimate(inputs, targets) -> kappa
    kappa.py         ‖H‖/‖g‖² and when it means nothing
    exact.py         the full Hessian of a small problem
    validate.py      every estimate beside its exact value
    api.py           probe(problem) in one call

    components.py               attention, norms and output softmax from one forward pass
    components_watch.py         sees the functional calls of that pass, and whose they are
    components_calls.py         which functions are watched, and how their arguments read
    components_origins.py       where a tensor comes from: attention, norms, losses by hand
    components_scales.py        norms by hand: from a mean square to the division by its root
    components_attention.py     how peaked one attention softmax is
    components_norm.py          what a normalisation divides by
    components_output.py        how sure the output softmax is of its targets
    components_sample.py        quantiles of a stream in bounded memory
    components_columns.py       all of these as columns of a log

The gradient's graph is built once per estimate and kept: a product with H then costs about two
gradients, and a product with a diagonal block only walks that block's part of the graph.

Over several ranks each keeps its own graph and every vector is a sum: one all-reduce for the
gradient and one for each product (two for a gradient at two points). All decisions, stops,
fallbacks and errors rest on sums that are the same bits on every rank, or are asked of all; so
every rank returns the same estimate. Components and gradient noise pool all ranks' batches.
"""
