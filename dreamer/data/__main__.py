"""`python -m dreamer.data`; see `dreamer.cli.data`."""

from dreamer.cli.data import run

if __name__ == "__main__":
    run()
