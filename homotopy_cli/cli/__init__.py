"""The command line: three verbs over the layers below, and nothing that computes.

`app` owns the process: exit codes, the two-line error form, broken pipes. `probe`, `train`
and `report` hold one command each and import the layers below inside their functions, so that
`homotopy --help` costs what Typer costs. `render` turns records into rich tables, `document`
turns them into the strict JSON of the contract, `progress` draws what is under way on stderr.
Results go to stdout; everything else goes to stderr.
"""
