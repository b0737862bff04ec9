"""Train DreamerV2: `python train.py env=atari task=pong`. `--help` lists the keys."""

from dreamer.cli.train import run

if __name__ == "__main__":
    run()
