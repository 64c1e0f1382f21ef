"""`python -m edgeasd` is the `edgeasd` command."""

from edgeasd.toolkit.cli import main

if __name__ == "__main__":
    main()
