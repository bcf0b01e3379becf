"""`python -m homotopy_cli` is the `homotopy` command (and what torchrun starts)."""

from homotopy_cli.cli.app import main

if __name__ == "__main__":
    main()
