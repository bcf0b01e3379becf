"""The command line: three verbs over the layers below, and nothing that computes.

`app` owns the process: exit codes, the two-line error form, broken pipes. `probe`, `train` and
`report` hold one command's options each and import the layers below inside their functions, so
that `homotopy --help` costs what Typer costs. Results go to stdout, everything else to stderr.

    probing       probe, from options to outputs; interrupt: the first Ctrl-C asks for what is there
    metric        the saved optimizer's P and its edge; edges: the learning rates these allow
    sentences     findings in words; render: in tables; document: in strict JSON;
                  symbols: the numbers' names
    compare       two probes side by side
    outputs       what a probe leaves behind; probe_log: a log of one row, and its page
    debug         --debug, everywhere
    refusals      outputs that would destroy an input; writing: files whole or not at all
    train_run     train, from a recipe to the last sentence; shipped: --list, --copy, --schema
    sweep         a grid of runs; sweep_worker: one process for many of them;
                  sweep_table: what it found; sweep_folder: what else lies in its folder
    ranks         under torchrun one process speaks for all
    reporting     report, from logs to outputs; watching: again and again while a run lives;
                  log_folders: a folder in place of its logs
    progress, probe_progress   what is under way, on stderr
"""
