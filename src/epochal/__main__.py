"""`python -m epochal` is the same as `epochal`."""

from epochal.cli.main import main

if __name__ == "__main__":
    main()
