"""The zoo: models and data that a recipe can name.

    registry.py      build_model, build_data: a recipe's section -> the object
    gpt.py           decoder-only Transformer, pre-LN or post-LN, tied or not
    encoder.py       Transformer encoder over tokens; Vision Transformer
    hf.py            a transformers folder as a recipe's model
    pretrained.py    transformers' own loader, its reports made errors
    mlp.py           fully connected network
    resnet.py        CIFAR ResNet with BatchNorm
    residual.py      ResNet-18, -34 and -50 under torchvision's parameter names
    quadratic.py     ½θ'Aθ with eigenvalues known in closed form
    data.py          DataInfo, DataSource, and rows in memory
    ahead.py         rows whose next batch is made meanwhile
    randomness.py    generators keyed by (seed, counters): order without state
    files.py         finding a data file, or saying where it was looked for
    text.py          windows of a text, to continue or to restore
    vocabulary.py    a text as characters, as BPE, or by a tokenizer's file
    extras.py        a library that is missing -> the extra that brings it
    npz.py           arrays of an .npz file, without pickle
    augment.py       random mirrors, shifts and cuts of images
    cifar.py         CIFAR-10, binary and Python layouts, without running a pickle
    digits.py        scikit-learn's handwritten digits
    image_folder.py  images in one folder per class, decoded when drawn
    hf_dataset.py    a dataset that Hugging Face's `datasets` saved: arrays, images, texts
    user_data.py     what a user's data callable may return
    examples.py      a map-style dataset, read when a batch is drawn
    synthetic.py     the examples of the quadratic model

A DataSource keeps no position: `batch(step, batch_size, seed)` is a pure function, so a
resumed run sees the batches that the undisturbed run would have seen. Held-out data, which
probes and evaluations use, never depend on the seed.
"""
