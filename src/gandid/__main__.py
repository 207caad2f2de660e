"""``python -m gandid`` is the command line."""

from gandid.cli import main

if __name__ == "__main__":
    main()
