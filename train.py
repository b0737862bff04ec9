"""Train DreamerV2: `python train.py env=atari task=pong`. See README.md for what can be set."""

from dreamer.cli.train import run

if __name__ == "__main__":
    run()
