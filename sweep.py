"""Run a grid or a search of experiments: `python sweep.py grid=ablations task=pong seeds=3`."""

from experiments.sweep.entry import run

if __name__ == "__main__":
    run()
