#!/bin/sh
# Makes the virtual environment of a peer: benchmarks/peers/setup.sh [folder]
#
#   folder      its folder; benchmarks/.venv-<peer> by default
#   PEER        sheeprl or authors; sheeprl by default
#   PYTHON      interpreter, 3.11 or 3.12 (authors: 3.11); python3.11 by default
#   INHERIT=1   use packages of that interpreter, such as an installed torch
#
# pip's variables apply: without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# saves gigabytes, and PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels installs downloaded wheels.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
peer=${PEER:-sheeprl}
folder=${1:-$here/../.venv-$peer}

"${PYTHON:-python3.11}" -m venv ${INHERIT:+--system-site-packages} "$folder"
install() { "$folder/bin/python" -m pip install --quiet "$@"; }
install --requirement "$here/requirements-$peer.txt"
if [ "$peer" = authors ]; then
    install --no-deps dreamerv2==2.2.0
fi
"$folder/bin/python" -m pip list 2>/dev/null | grep -E '^(sheeprl|dreamerv2|torch|tensorflow-cpu) '
