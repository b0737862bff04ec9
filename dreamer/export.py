"""`python -m dreamer.export`; see `dreamer.cli.export`."""

from dreamer.cli.export import run

if __name__ == "__main__":
    run()
