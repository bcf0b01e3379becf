"""Curvature -> learning rate: schedulers that measure instead of guess.

    rules        the control law as pure functions of floats (no torch)
    thresholds   where each optimizer's edge of stability is: ηλ = c
    baselines    constant, cosine, linear, step, wsd, exponential: to compose and compare with
    replay       the rates of an earlier run, or its placebo (no torch)
    length       how long a run is, by its inner schedule
    settings     the guard's numbers, checked once (no torch)
    targets      how near the edge this optimizer and network may train
    cadence      when to probe: burst, adaptive period, hard budget in gradient-equivalents
    effort       how much a probe does, by where the run is and what it can pay
    limits       what a measured curvature allows, attack at once and release slowly (no torch)
    ramp         rates that are measured: mode auto's schedule, a limit in mode guard (no torch)
    sliced       a slice of the batch (slices) -> Problem
    probing      one probe: Problem -> estimate -> columns
    metric       the metric in which one edge holds for all parameter groups
    loss_scaling a gradient that a GradScaler still holds scaled does not count in it
    fraction     which share of the gradient is signal, from the probe's slice
    alarms       a loss or gradient norm out of its range brings the next probe forward
    relapse      a loss above its start: the edge was passed between two probes
    counting     how many steps the optimizer really took
    ranks        one rate on all ranks
    layer_watch  per-layer probes on an account of their own
    trust        the trust ratio of steps that were taken, for optimizers without a known edge
    events       what a reader must know, kept until the loop takes it; telling: the sentences
    guard        probe + cadence + limits + events: the engine that every class below drives
    trust_guard  the same engine on trust ratios
    base         a real torch LRScheduler around the guard: groups, tensor rates, state, chaining
    usage        what a loop does wrong with a scheduler, said once or refused
    readings     what a scheduler knows, to print, log and draw
    homotopy     HomotopyLR; adaptive, per_layer, warmup and facade vary it
    adam, clip   HomotopyAdam and curvature_aware_clip
    history      bounded record of what happened, and its two plotly figures

Two promises hold for all of them. *A ceiling, never a push*: the learning rate of a group is
its schedule times one common factor in (0, 1]. *Never fail open*: a probe that fails or
returns NaN keeps the last ceiling, is counted, and is said.
"""
