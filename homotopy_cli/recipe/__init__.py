"""Recipes: YAML becomes typed settings, without torch.

    values.py       numbers, counts, flags that refuse look-alikes, with words and a hint
    running.py      device, mixed precision, compilation, early end
    schema.py       Recipe: everything `homotopy train` can be told
    models.py       one settings class per zoo model
    datasets.py     one settings class per kind of data
    optimizers.py   one settings class per torch.optim class, from a torch-free keyword table
    schedules.py    one settings class per scheduler
    document.py     YAML text -> plain values, each with its place (file:line)
    parsing.py      the YAML 1.2 core rules on top of PyYAML's scanner
    overrides.py    `--set a.b=c` and profiles, applied to a document
    faults.py       a pydantic error -> `file:line: key.path: what`, and what to type instead
    load.py         open_recipe, load_recipe, builtin_recipe: every fault in one RecipeError
    named_files.py  the files that a recipe names, and which of them are missing
    grid.py         `--sweep a.b=1,2 --seeds 3` -> cells, each with a file name
    targets.py      load_target: `file.py:callable`, `package.module:callable`
    shipped.py      the recipes of the package: a list, and copies
    text.py         the reference table of recipes/README.md
    editor.py       the JSON schema, for editors

Three rules. A value is never repaired silently: `1e-3` is a number because YAML 1.2 says
so, `no` is text because YAML 1.2 says so. Every default is written in a settings class and
nowhere else. `null` means "as if the key were left out".
"""
