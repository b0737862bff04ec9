"""Starts the peers from our side, each in its own virtual environment.

The benchmarks call it. It knows where the environments are and what the scripts accept.
"""

import os
from pathlib import Path

from benchmarks.peers.protocol import Peer
from dreamer.runtime import VARIABLES

ROOT = Path(__file__).parents[2]  # of the repository


def venv(peer: str) -> Path:
    """The folder of a peer's virtual environment: BENCHMARK_<PEER>_VENV, or where setup.sh puts it.

    Raises:
        FileNotFoundError: there is none; the error says how to make it.
    """
    variable = f"BENCHMARK_{peer.upper()}_VENV"
    folder = Path(os.environ.get(variable) or ROOT / "benchmarks" / f".venv-{peer}")
    if not (folder / "bin" / "python").exists():
        raise FileNotFoundError(
            f"Expect the virtual environment of {peer} in {folder}, actually there is none. Make "
            f"it with PEER={peer} benchmarks/peers/setup.sh, or name its folder in {variable}."
        )
    return folder.absolute()


def start_sheeprl(
    *, size: str, precision: str, compile_losses: bool, threads: int, device: str
) -> Peer:
    """SheepRL's agent at one of `SIZES`, waiting for requests.

    Args:
        size: "full" or "small".
        precision: "32-true" or "bf16-mixed".
        compile_losses: whether it uses torch.compile. On two CPU cores its first update then takes
            160 s at small size and 400 s at full size, or 15 and 42 s with a warm cache.
        threads: of torch.
        device: "cpu" or "cuda".

    Raises:
        FileNotFoundError: its virtual environment is missing.
        PeerError: it could not start.
    """
    options = [
        *("--size", size),
        *("--precision", precision),
        *("--compile", str(compile_losses).lower()),
        *("--device", device),
    ]
    return _start("sheeprl", options, threads)


def start_authors(*, size: str, threads: int) -> Peer:
    """The authors' agent at one of `SIZES`, on the CPU in float32, waiting for requests.

    Args:
        size: "full" or "small".
        threads: of TensorFlow.

    Raises:
        FileNotFoundError: its virtual environment is missing.
        PeerError: it could not start.
    """
    return _start("authors", ["--size", size], threads)


def _start(peer: str, options: list[str], threads: int) -> Peer:
    script = ["-m", f"benchmarks.peers.{peer}_update", *options, "--threads", str(threads)]
    # What we set for ourselves is no concern of theirs: they run as their users run them.
    without = [word for name in VARIABLES for word in ("-u", name)]
    command = ["env", *without, str(venv(peer) / "bin" / "python"), *script]
    return Peer(command, {"OMP_NUM_THREADS": str(threads)}, folder=ROOT)
