"""Starts the peers from our side, each in its own virtual environment.

The benchmarks call it. It knows where the environments are and what the scripts accept.
"""

import os
from pathlib import Path

from benchmarks.peers.protocol import Peer

ROOT = Path(__file__).parents[2]  # of the repository
VENV = "BENCHMARK_SHEEPRL_VENV"  # the variable that names another folder


def sheeprl_venv() -> Path:
    """The folder of SheepRL's virtual environment.

    Raises:
        FileNotFoundError: there is none; the error says how to make it.
    """
    folder = Path(os.environ.get(VENV) or ROOT / "benchmarks" / ".venv-sheeprl")
    if not (folder / "bin" / "python").exists():
        raise FileNotFoundError(
            f"Expect SheepRL's virtual environment in {folder}, actually there is none. Make it "
            f"with benchmarks/peers/setup.sh, or name its folder in {VENV}."
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
    return Peer(
        [
            str(sheeprl_venv() / "bin" / "python"),
            *("-m", "benchmarks.peers.sheeprl_update"),
            *("--size", size),
            *("--precision", precision),
            *("--compile", str(compile_losses).lower()),
            *("--threads", str(threads)),
            *("--device", device),
        ],
        {"OMP_NUM_THREADS": str(threads)},
        folder=ROOT,
    )
