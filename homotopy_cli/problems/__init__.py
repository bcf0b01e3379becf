"""Problems: where a model, a loss and fixed batches become one function of the parameters.

    problem.py       Problem: L(theta) = sum_b w_b l_b over fixed batches; leaves no trace
    wrappers.py      unwrap DDP and torch.compile; hold a model still while it is measured
    partition.py     disjoint, covering blocks ("layers") of the parameters
    criteria.py      named losses that also count their terms; a loss guessed by evidence
    calling.py       how a model is called with a batch, and what its result holds
    nest.py          nests of tensors: map, walk, count rows, split
    batches.py       batch files: .pt (weights only), .npz, .safetensors
    misfit.py        an exception inside a forward pass, explained with the batch's name
    adapters.py      what kind of file this is, by content; one reader per kind
    legible.py       tensors out of any pickle without running a line of it
    archives.py      zip checks before anything is unpacked: truncated, bombs, TorchScript
    entries.py       which sets of weights a nested checkpoint holds
    checkpoint.py    read_checkpoint, load_into: strict, with both shapes in the message
    from_recipe.py   recipe -> model, loss, data -> Problem; shared by probe and train
    load.py          load_problem: all that `homotopy probe` needs, from one path

The measured function is the same at every call: batches are fixed, buffers are cloned for
each batch, the generators are forked to one seed and attention runs on the one kernel that
has a second derivative. Weights, `.grad`, buffers, mode flags and generators are bitwise
what they were.

A batch weighs what it counts: rows, or targets that are not ignored. So the loss over
batches of 4, 4 and 2 rows equals the loss over the ten rows at once.

A checkpoint is recognised by its bytes, never by its name, and is read without running
code: by `weights_only`, or by a reader that rebuilds tensors and containers and turns every
other class into an inert stand-in. Only `trust_pickle` runs a pickle, and nothing falls
back to it.
"""
