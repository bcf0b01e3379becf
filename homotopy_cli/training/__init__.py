"""Training: a recipe becomes a run, and a run survives what happens to it.

    build.py        Recipe -> Run: model, loss, data, optimizer, scheduler, curvature probe
    devices.py      the recipe's device; batches onto it
    plans.py        the recipe's scheduler and curvature sections -> scheduler and probe
    clipping.py     gradient clipping
    forward.py      the training loss and its gradient: autocast, compilation, accumulation
    recompute.py    activation checkpointing
    step.py         one optimizer step
    spoilt.py       NaN and infinity in a batch, where a loss is not finite
    preflight.py    the first batch's loss, before anything is written
    check.py        --check: everything a run does once, in memory
    loop.py         train(): from a recipe to a result; what is refused before the first byte
    opening.py      what was chosen for a run, said before its first step
    observer.py     what a watcher of a run is told while it lives
    attempt.py      one attempt: steps, evaluations, signals, the log
    keeping.py      its checkpoints: when, what, and back; the best evaluation's weights
    probing.py      what a probe saw -> one ProbeRecord; the passive probe of fixed schedules
    averaging.py    optimizers with weights to train on and weights to use (Schedule-Free)
    evaluate.py     mean loss and metric on held-out batches, without a trace on the run
    snapshot.py     spectrum, attention, norms and output beside an evaluation
    signs.py        early signs of instability that cost no pass over the data
    spikes.py       spikes of a series, found as it grows
    watch.py        spikes and signs as events
    stopping.py     the best evaluation, an early end, a limit on time
    checkpoint.py   run.pt: atomic, plain, self-describing; RNG captured and restored
    resume.py       run.pt + run.h5 -> the same run at the same step
    outputs.py      where log, checkpoint and page go, and what refuses to be overwritten
    distributed.py  torchrun: the process group; a model spread by DDP or FSDP2
    ranks.py        what a loop must ask other processes; one process answers itself
    group.py        the same, asked of all ranks
    saving.py       run.pt of several ranks, and FSDP's folder of shards beside it
    signals.py      SIGINT and SIGTERM: finish the step, save, leave
    environment.py  versions, device and the command line for the log
    summary.py      TrainResult: what happened, in numbers and in words

Order inside step k (0-based): batch -> forward -> backward -> gradient norm -> clip -> probe
(the scheduler may lower the LR of this very step) -> optimizer.step() -> scheduler.step() ->
row k. Then, with k + 1 steps done: evaluation, checkpoint. A checkpoint at step k holds
everything that rows >= k depend on, so a resumed run repeats them bit for bit; rows that an
interrupted attempt wrote beyond its checkpoint are superseded by the new attempt's.

With a fixed schedule the loop does exactly what a hand-written loop does: probing neither
draws from the global generators nor touches weights, gradients or buffers, and a test
compares the weights bitwise.
"""
