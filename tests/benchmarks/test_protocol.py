"""The line protocol between the benchmarks and a peer's process."""

import sys

import pytest

from benchmarks.peers.protocol import Peer, PeerError

ANSWERING = """
import os
from benchmarks.peers.protocol import own_output, peak_memory, serve

def fail():
    raise RuntimeError("no such luck")

with own_output() as answers:
    print("a library says hello")
    os.system("echo and so does a program in C")
    commands = {"add": lambda *n: {"sum": sum(n)}, "fail": fail, "leave": lambda: os._exit(3)}
    commands["memory"] = peak_memory
    serve(answers, {"peer": "stub", "colour": os.environ["COLOUR"]}, commands)
"""


@pytest.fixture
def peer(repository):
    command = [sys.executable, "-c", ANSWERING]
    with Peer(command, {"COLOUR": "red"}, folder=repository) as peer:
        yield peer


def test_a_peer_answers_requests_whatever_its_libraries_print(peer):
    assert peer.ready == {"peer": "stub", "colour": "red"}
    assert peer.ask("add 1 20 300") == {"sum": 321}
    assert peer.ask("memory")["rss_bytes"] > 5e6  # bytes: no Python runs in less


def test_what_a_peer_cannot_do_is_an_error_and_not_its_end(peer):
    with pytest.raises(PeerError, match="fail: RuntimeError: no such luck"):
        peer.ask("fail")
    with pytest.raises(PeerError, match=r"must be one of \['add', .*'quit'\], got 'dance'"):
        peer.ask("dance")
    assert peer.ask("add 2 2") == {"sum": 4}


def test_the_end_of_a_peer_is_reported_with_its_last_words(peer, repository):
    with pytest.raises(PeerError, match=r"ended with exit code 3:(?s:.*)says hello"):
        peer.ask("leave")
    with pytest.raises(PeerError, match=r"exit code 1:(?s:.*)ZeroDivisionError"):
        Peer([sys.executable, "-c", "1 / 0"], folder=repository)


def test_quit_ends_the_process_in_good_order(peer):
    with pytest.raises(PeerError, match="ended with exit code 0"):
        peer.ask("quit")
