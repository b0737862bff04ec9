#!/bin/bash
# Everything there is to know on a machine with a GPU, unattended, in less than ten minutes:
#
#   benchmarks/gpu.sh OUT [WHEELS [PEER_WHEELS]]
#
#   OUT           folder for table.txt, the same as results.json, reports of the parts and logs
#   WHEELS        folder of wheels, for a machine without a network; needed beside a python with
#                 torch (CUDA), pytorch-lightning, pytest, numpy, imageio, tqdm and tensorboard:
#                 hydra-core, omegaconf, antlr4-python3-runtime, gymnasium, farama-notifications,
#                 ale-py, imageio-ffmpeg
#   PEER_WHEELS   those of SheepRL (benchmarks/peers/README.md); without them it is left out
#   PYTHON        the interpreter; python3 if not given
#   LIMIT         seconds for all of it; 570 if not given
#   REHEARSE=1    on the CPU at small sizes, to see that the script itself works
#
# A part that fails or takes too long does not stop the others; what LIMIT leaves no time for is left
# out. table.txt says which it was.
set -uo pipefail

cd "$(dirname "$0")/.."
: "${1:?Expect a folder: benchmarks/gpu.sh OUT [WHEELS [PEER_WHEELS]]}"
out=$(mkdir -p "$1" && cd "$1" && pwd)
wheels=${2:-}
peer_wheels=${3:-}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONUNBUFFERED=1

if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" \
        "$wheels"/*.whl || exit 1
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
fi

# part NAME SECONDS COMMAND...: its output goes to NAME.log, how it ended to parts.txt.
part() {
    local name=$1 limit=$2 start=$SECONDS rc=0 left=$((${LIMIT:-570} - SECONDS))
    shift 2
    if [ "$left" -lt 10 ]; then
        echo "$name 124 0" >>"$out/parts.txt"
        return
    fi
    limit=$((limit < left ? limit : left))
    echo "--- $name: $*"
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
    tail -n 12 "$out/$name.log"
    echo "$name $rc $((SECONDS - start))" >>"$out/parts.txt"
}

tests="tests/kernels/test_cuda_graph.py tests/test_agent.py tests/test_policy.py tests/replay/test_device_cache.py"
run="env=atari task=pong logger=jsonl callbacks.evaluate=null callbacks.video=null"
run="$run replay.capacity_policy_steps=100000"
if [ -n "${REHEARSE:-}" ]; then
    device=cpu size=small repeats=1 marks="not gpu and not slow" graphs=false
    fastest="collect.overlap=true"
    run="$run model=tiny batch.size=4 batch.length=16 total_frames=6000 prefill_policy_steps=1000"
    run="$run replay.sampling=steps callbacks.metrics.every_frames=500 trainer.accelerator=cpu"
else
    device=cuda size=full repeats=30 marks=gpu graphs="true false"
    fastest="cuda_graphs=true replay.device=cuda collect.overlap=true"
    run="$run total_frames=160000 prefill_policy_steps=10000 callbacks.metrics.every_frames=2000"
fi
: >"$out/parts.txt"
{ nvidia-smi || true; "$python" -m pip list; } >"$out/machine.log" 2>&1

# Without the project's own options, which ask for pytest-xdist.
part tests 150 "$python" -m pytest -q -o addopts= -m "$marks" $tests

# our_update NAME SECONDS PRECISION OVERRIDE...
our_update() {
    local name=update_$1 limit=$2 precision=$3
    shift 3
    part "$name" "$limit" "$python" -m benchmarks.update --device $device --size $size \
        --precision "$precision" --repeats $repeats --out "$out/$name.json" "$@"
}

# beside PEER: our update and its, in turns
beside() {
    [ -n "$peer_wheels" ] || return
    part "update_beside_$1" 120 "$python" -m benchmarks.update --device $device --size $size \
        --precision bf16-mixed --repeats $repeats --peer "$1" \
        --out "$out/update_beside_$1.json" "cuda_graphs=${graphs%% *}"
}
if [ -n "$peer_wheels" ]; then
    export BENCHMARK_SHEEPRL_VENV=$work/sheeprl
    # A virtual environment inside another sees the system's packages, not those of the other.
    "$python" -m venv "$work/sheeprl" &&
        "$python" -c "import site; print(*site.getsitepackages(), sep='\n')" \
            >"$("$work/sheeprl/bin/python" -c 'import site; print(site.getsitepackages()[0])')/outer.pth" &&
        "$work/sheeprl/bin/python" -m pip install --quiet --no-index --no-deps "$peer_wheels"/*.whl
fi

# whole_run NAME SECONDS OVERRIDE...
whole_run() {
    local name=run_$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" train.py $run "$@" "run_dir=$work/$name"
    cp "$work/$name/metrics.jsonl" "$out/$name.jsonl"
}

# First what the goals are about, in case there is no time for the rest.
our_update "bf16-mixed_graphs_${graphs%% *}" 90 bf16-mixed "cuda_graphs=${graphs%% *}"
part profile 90 "$python" -m benchmarks.profile --device $device --size $size \
    --precision bf16-mixed --out "$out/profile.json" "cuda_graphs=${graphs%% *}"
beside sheeprl-bf16
whole_run eight 80 $fastest env.count=8
whole_run fastest 100 $fastest
for graph in $graphs; do
    part "act_graphs_$graph" 60 "$python" -m benchmarks.act --device $device --size $size \
        --no-emulation --repeats $repeats --out "$out/act_graphs_$graph.json" "cuda_graphs=$graph"
done
for graph in $graphs; do
    our_update "32-true_graphs_$graph" 90 32-true "cuda_graphs=$graph"
done
[ "$graphs" = false ] || our_update bf16-mixed_graphs_false 90 bf16-mixed cuda_graphs=false
whole_run graphs 80 "cuda_graphs=${graphs%% *}"
whole_run plain 90
beside sheeprl
beside sheeprl-compiled # last: it compiles for minutes

"$python" -m benchmarks.gpu_table "$out" | tee "$out/table.txt"
