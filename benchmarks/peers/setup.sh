#!/bin/sh
# Makes the virtual environment of a peer:  benchmarks/peers/setup.sh [folder]
#
#   folder      where to; benchmarks/.venv-sheeprl if not given
#   PYTHON      the interpreter, 3.11 or 3.12; python3.11 if not given
#   INHERIT=1   see the packages of that interpreter, such as a torch that is already there
#
# pip's own variables do the rest: without a GPU,
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares gigabytes, and
# PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels installs what was fetched elsewhere.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../.venv-sheeprl}

"${PYTHON:-python3.11}" -m venv ${INHERIT:+--system-site-packages} "$folder"
"$folder/bin/python" -m pip install --quiet --requirement "$here/requirements-sheeprl.txt"
"$folder/bin/python" -c 'import sheeprl, torch; print("SheepRL", sheeprl.__version__, "with torch", torch.__version__)'
