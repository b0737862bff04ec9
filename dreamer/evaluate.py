"""`python -m dreamer.evaluate`; see `dreamer.cli.evaluate`."""

from dreamer.cli.evaluate import run

if __name__ == "__main__":
    run()
