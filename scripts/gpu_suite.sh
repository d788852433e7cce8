#!/usr/bin/env bash
# What needs a GPU, most valuable first, in calls of under ten minutes; call it again until it says "all done".
#
#   scripts/gpu_suite.sh pack FOLDER     CIFAR-10 in two parts below 64 MiB, and the wheels that GPU machines lack
#   scripts/gpu_suite.sh unpack FOLDER   the images back into $SPARSEBENCH_DATA, once both parts have arrived
#   scripts/gpu_suite.sh run [OUT]       step times, tests, theory, then trainings of dense, GMP and DPF; CSVs into OUT
#
# A failed stage is reported at the end, after the others; then the status is 1. Finished stages are skipped, failed
# ones are not retried, and an interrupted training resumes in the next call. Trainings wait for the images.
# Settings by environment variables:
#
#   PYTHON   the interpreter (the repository's .venv, else python3)
#   LIMIT    seconds of one call (540)
#   JOBS     trainings at once (12): ResNet-20 alone does not fill a GPU
#   EPOCHS   of a training (300, as published)
#   STAGES   words of the names of the stages to run, for example "bench tests" (all)
#   STATE    where it is remembered what is done, and where the runs lie (results/gpu)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

export SPARSEBENCH_DATA=${SPARSEBENCH_DATA:-$HOME/.cache/sparsebench}
limit=${LIMIT:-540}
state=${STATE:-results/gpu}
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

left() { echo $((limit - SECONDS)); }

# The finished runs so far: their rows, and what compare says of them.
table() {
    local name=cifar10_resnet20_${EPOCHS:-300}ep_$hardware
    [ -d "$state/runs" ] || return 0
    "$python" -m sparsebench collect "$state/runs" -o "$out/${name}_runs.csv" || return 0
    "$python" -m sparsebench compare "$state/runs" --format csv -o "$out/$name.csv" || true
}

report() {
    local name failed=("$state"/*.failed)
    table
    [ -e "${failed[0]}" ] || return 0
    for name in "${failed[@]}"; do
        name=$(basename "$name" .failed)
        echo "gpu_suite: $name failed with status $(cat "$state/$name.failed"); see $out/$name" >&2
    done
    return 1
}

leave() {
    echo "gpu_suite: $1; call again"
    report
    exit
}

# stage NAME COMMAND...: run once, with the remaining time; output into OUT/NAME, errors into OUT/NAME.err
stage() {
    local name=$1 status=0 started=$SECONDS
    shift
    if [ -e "$state/$name.done" ] || [ -e "$state/$name.failed" ]; then return; fi
    local word chosen=
    for word in ${STAGES-$name}; do case $name in *"$word"*) chosen=1 ;; esac done
    [ -n "$chosen" ] || return 0
    [ "$(left)" -ge 20 ] || leave "time is up before $name"
    echo "gpu_suite: $name"
    timeout -k 30 "$(left)" "$@" >"$state/$name.part" 2>"$state/$name.err" || status=$?
    cp "$state/$name.part" "$out/$name"
    tail -n 200 "$state/$name.err" >"$out/$name.err"
    case $status in
        0) : >"$state/$name.done" ;;
        124 | 137 | 143) leave "$name was cut off" ;;
        *) echo "$status" >"$state/$name.failed" ;;
    esac
    echo "gpu_suite: $name: status $status after $((SECONDS - started)) s"
}

images_are_here() {
    local folder
    for folder in "$SPARSEBENCH_DATA" "$SPARSEBENCH_DATA/cifar10"; do
        [ ! -f "$folder/cifar-10-batches-bin/test_batch.bin" ] || return 0
    done
    return 1
}

# Kernels of several processes run at the same time under CUDA's Multi-Process Service only; else they take turns.
share_gpu() {
    command -v nvidia-cuda-mps-control >/dev/null || return 0
    export CUDA_MPS_PIPE_DIRECTORY=/tmp/sparsebench-mps CUDA_MPS_LOG_DIRECTORY=/tmp/sparsebench-mps/log
    mkdir -p "$CUDA_MPS_LOG_DIRECTORY"
    nvidia-cuda-mps-control -d || return 0
    trap 'echo quit | nvidia-cuda-mps-control' EXIT
}

# The experiment's own settings, so that rows join with those of other machines.
trainings() {
    "$python" -m sparsebench sweep experiment=dpf_cifar10 model=resnet model.depth=20 epochs="${EPOCHS:-300}" \
        precision=bf16 channels_last=true eval_every=10ep save_every=10ep results_dir="$state"/runs \
        launcher=local launcher.n_jobs="${JOBS:-12}" "$@"
}

run() {
    out=${1:-$state/out}
    mkdir -p "$state" "$out"
    local hardware
    hardware=$("$python" -c '
import torch
print(torch.cuda.get_device_name().lower().replace(" ", "_") if torch.cuda.is_available() else "no_gpu")')
    local resnet20=(scripts/bench_step.py --steps 64 --images 4096 --methods gmp,dpf,rigl,ste channels_last=true)
    stage "bench_step_resnet20_bf16_$hardware.csv" "$python" "${resnet20[@]}" precision=bf16
    stage "bench_step_resnet20_fp32_$hardware.csv" "$python" "${resnet20[@]}"
    stage "bench_select_$hardware.csv" "$python" scripts/bench_select.py
    stage tests.txt "$python" -m pytest -m gpu -q -n 4 -p no:benchmark -p no:cacheprovider tests
    stage "bench_step_resnet50_$hardware.csv" "$python" scripts/bench_step.py model=torchvision model.name=resnet50 \
        --pixels 224 --images 1024 --batch-size 256 --steps 48 precision=bf16 channels_last=true
    stage "bench_data_$hardware.csv" "$python" scripts/bench_data.py --synthetic --device cuda
    images_are_here || leave "no cifar-10-batches-bin below SPARSEBENCH_DATA=$SPARSEBENCH_DATA: trainings wait for it"
    export -f trainings
    export python state
    share_gpu
    stage trainings.txt bash -c 'trainings prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1,2'
    stage more_trainings.txt bash -c 'trainings prune=dense,gmp,dpf,snfs,dsr,snip seed=0,1,2'
    stage theory.txt "$python" -m sparsebench theory study=overparam_prune device=cuda results_dir="$state"/theory \
        'study.diag={n: 4000, informative: 1200, weak: 18800, features: [800, 1200, 3000, 6000, 12000, 20000], keep: []}' \
        'study.rf={n: 4000, d: 2000, keep: 800, features: [1000, 2000, 3000, 6000, 8000], seeds: 4, draws: 8}'
    stage theory_deep.txt "$python" -m sparsebench theory study=deep_random_features device=cuda \
        results_dir="$state"/theory study.d=2000 study.test_samples=4000
    echo "gpu_suite: all done, results in $out"
    report
}

case "${1:-} ${2:-}" in
"pack "?* | "unpack "?*) exec "$python" scripts/gpu_pack.py "$1" "$2" ;;
"run "*) run "${2:-}" ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
