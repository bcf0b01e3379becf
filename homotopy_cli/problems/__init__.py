"""Problems: where a model, a loss and fixed batches become one function of the parameters.

    problem.py       Problem: L(theta) = sum_b w_b l_b over fixed batches; leaves no trace
    parameters.py    the differentiated leaves: shared storage, tied tensors once
    graph.py         the graph behind a loss; parameters that it reaches past their module
    chunks.py        the loss as a number; whether microbatches still give it
    reducer.py       sums over ranks: one collective each, and the same error on all
    spread.py        one Problem over several ranks' batches, the same function on each
    sharded.py       FSDP2 models: a plain copy with whole parameters
    shards.py        FSDP2 models measured on their shards
    wrappers.py      unwrap DDP and torch.compile; borrow a model while it is measured
    writes.py        weights that a model's own forward pass writes to
    evaluation.py    one batch's loss as a scalar
    partition.py     disjoint, covering blocks ("layers") of the parameters
    criteria.py      named losses that also count their terms (counting.py)
    torch_criteria.py  torch's own: what their means divide by, their weights' dtype
    axes.py          on which axis a cross entropy's outputs hold the classes
    signatures.py    whether a user's loss takes (model, batch) or (outputs, targets)
    guess.py         a loss guessed from result and targets, with its evidence
    calling.py       how a model is called with a batch, and what its result holds
    probabilities.py outputs that the loss's sigmoid or softmax meets a second time
    forms.py         what a batch may look like, and hints where it does not
    misfit.py        an exception inside a forward pass, explained with the batch's name
    nest.py          nests of tensors: map, walk, count rows, split
    batches.py       batch files: .pt, .npz, .safetensors, by content

    archives.py      what a file is, by its bytes; whether a zip is whole and no bomb
    globals.py       the globals a pickle names, read off its opcodes
    legible.py       tensors out of any pickle without running a line of it
    reading.py       one torch file -> its content: safely, or trusted
    folders.py       safetensors, and folders of shards
    dcp.py           torch.distributed.checkpoint folders, every rank's shards in one process
    exported.py      torch.export archives: the weights by their own table
    entries.py       which sets of weights a nested checkpoint holds
    adapters.py      one small function per kind of checkpoint
    naming.py        prefixes and ties; mismatch.py: what does not fit, in words
    checkpoint.py    read_checkpoint; load_into, always strict
    optimizers.py    a saved optimizer state beside its parameters

    from_recipe.py   recipe -> model, loss, data -> Problem; shared by probe and train
    sources.py       which recipe tells what a checkpoint does not; user code needs consent
    building.py      the module: given, a target, trusted, a transformers folder's, the recipe's
    pretrained.py    transformers folders; pretrained_text.py: tokens and loss of a --text
    load.py          load_problem: all that `homotopy probe` needs, from one path

The measured function is the same at every call: batches are fixed, buffers are cloned for
each batch, the generators are forked to one seed and attention runs on the one kernel that
has a second derivative. Weights, `.grad`, buffers, mode flags and generators are bitwise
what they were.

A batch weighs what its mean divides by: rows, elements, targets that are not ignored, or the
weights of their classes. So the loss over batches of 4, 4 and 2 rows equals the loss over the
ten rows at once.

Under torch.distributed the reducer is chosen, never guessed: with `ProcessGroupReducer()` every
rank gives its own batches, and L is the mean over the terms of all. A batch's loss stays this
rank's; who adds over ranks is the curvature layer, once per gradient and per product. A rank
that fails says so in the collective that the others wait in, and all raise its error.

A checkpoint is recognised by its bytes, never by its name, and is read without running
code: by `weights_only`, or by a reader that rebuilds tensors and containers and turns every
other class into an inert stand-in. Only `trust_pickle` runs a pickle, and nothing falls
back to it.
"""
