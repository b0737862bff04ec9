"""Nothing is sent: training, loading and evaluating need no connection."""

import socket

import pytest

import dreamer
from dreamer.run.evaluate import evaluate
from dreamer.run.train import train


@pytest.mark.slow
def test_no_command_opens_a_connection(compose_tiny, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail(f"a connection was opened: {args}")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    run_dir = train(compose_tiny("total_frames=56", "logger=[jsonl,tensorboard]")).run_dir
    assert dreamer.load(run_dir).frames
    options = {"episodes": 1, "checkpoint": "last", "seed": 0, "sample_actions": False}
    assert evaluate(run_dir, **options, video_policy_steps=0, video_fps=5)["returns"]
