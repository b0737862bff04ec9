"""`python -m dreamer.check`; see `dreamer.cli.check`."""

from dreamer.cli.check import run

if __name__ == "__main__":
    run()
