#!/usr/bin/env bash
# What needs a GPU, most valuable first, in calls of under ten minutes; call it again until it says "all done".
#
#   scripts/gpu_suite.sh pack FOLDER     CIFAR-10 in two parts below 64 MiB, and the wheels that GPU machines lack
#   scripts/gpu_suite.sh unpack FOLDER   the images back into $SPARSEBENCH_DATA, once both parts have arrived
#   scripts/gpu_suite.sh run [OUT]       step times, tests, then trainings of dense, GMP and DPF, and more; CSVs into OUT
#   scripts/gpu_suite.sh bundle FOLDER   all runs (finished: their tables; unfinished: their checkpoint) in parts of 15 MiB
#   scripts/gpu_suite.sh unbundle FOLDER the runs back, on the next machine: finished ones are skipped, others resume
#
# The first measurement decides how runs share the GPU: as many in one process as make the most images per second, with
# replayed steps; in processes of their own, if replayed steps should not equal ordinary ones to the bit.
# A failed stage is reported at the end, after the others; then the status is 1. Finished stages are skipped, failed
# ones are not retried, and an interrupted training resumes in the next call. Trainings wait for the images.
# Settings by environment variables:
#
#   PYTHON   the interpreter (the repository's .venv, else python3)
#   LIMIT    seconds of one call (540)
#   JOBS     trainings at once, if in processes of their own (12): ResNet-20 alone does not fill a GPU
#   EPOCHS   of a training (300, as published)
#   STAGES   words of the names of the stages to run, for example "bench tests" (all)
#   STATE    where it is remembered what is done, and where the runs lie (results/gpu)
#   TINY     if set, everything is as small as it can be, to try the suite itself, also without a GPU
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
    local launcher
    read -r -a launcher <"$state/launcher.txt"
    [ "${launcher[*]}" != launcher=local ] || launcher+=("launcher.n_jobs=${JOBS:-12}")
    if [ -n "${TINY:-}" ]; then
        launcher=(launcher=packed launcher.runs=3)
        set -- "$@" dataset.train_samples=256 batch_size=32 epochs=6 precision=fp32 prune=dense,dpf sparsity=0.9
    fi
    "$python" -m sparsebench sweep experiment=dpf_cifar10 model=resnet model.depth=20 epochs="${EPOCHS:-300}" \
        precision=bf16 channels_last=true eval_every=10ep save_every=30ep results_dir="$state"/runs \
        "${launcher[@]}" "$@"
}

run() {
    out=${1:-$state/out}
    mkdir -p "$state" "$out"
    local hardware
    hardware=$("$python" -c '
import torch
print(torch.cuda.get_device_name().lower().replace(" ", "_") if torch.cuda.is_available() else "no_gpu")')
    local small=() bf16=(precision=bf16 channels_last=true)
    [ -z "${TINY:-}" ] || small=(--images 512 --batch-size 16 --steps 2)
    stage "bench_gpu_resnet20_bf16_$hardware.csv" "$python" scripts/bench_gpu.py --choose "$state/launcher.txt" \
        "${small[@]}" "${bf16[@]}"
    [ -s "$state/launcher.txt" ] || echo launcher=local >"$state/launcher.txt"
    stage tests.txt "$python" -m pytest -m gpu -q -n 4 -p no:benchmark -p no:cacheprovider tests
    stage "bench_select_$hardware.csv" "$python" scripts/bench_select.py ${TINY:+--weights 100000}
    if images_are_here; then
        export -f trainings
        export python state
        grep -q packed "$state/launcher.txt" || share_gpu
        stage trainings_seed0_seed1.txt bash -c 'trainings prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1'
        stage trainings_seeds.txt bash -c 'trainings prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1,2,3,4'
        stage trainings_sparsities.txt bash -c 'trainings prune=dense,gmp,dpf sparsity=0.7,0.8,0.9,0.95 seed=0,1,2,3,4'
        stage trainings_methods.txt bash -c 'trainings prune=dense,gmp,dpf,snip,snfs,dsr seed=0,1,2'
    fi
    stage "bench_step_resnet20_bf16_$hardware.csv" "$python" scripts/bench_step.py --images 4096 \
        --methods gmp,dpf,rigl,ste "${small[@]}" "${bf16[@]}"
    stage "bench_data_$hardware.csv" "$python" scripts/bench_data.py --synthetic --device cuda
    images_are_here || leave "no cifar-10-batches-bin below SPARSEBENCH_DATA=$SPARSEBENCH_DATA: trainings wait for it"
    stage theory.txt "$python" -m sparsebench theory study=overparam_prune device=cuda results_dir="$state"/theory \
        'study.diag={n: 4000, informative: 1200, weak: 18800, features: [800, 1200, 3000, 6000, 12000, 20000], keep: []}' \
        'study.rf={n: 4000, d: 2000, keep: 800, features: [1000, 2000, 3000, 6000, 8000], seeds: 4, draws: 8}'
    stage theory_deep.txt "$python" -m sparsebench theory study=deep_random_features device=cuda \
        results_dir="$state"/theory study.d=2000 study.test_samples=4000
    echo "gpu_suite: all done, results in $out"
    report
}

# What the next machine needs of the runs: of finished ones everything but the weights, of others the newest checkpoint.
bundle() {
    mkdir -p "$1"
    rm -f "$1"/runs.tar.gz.*
    tar -C "$state" --exclude='*.previous.pt' --exclude='*.safetensors' --exclude='.sweeps' -czf - runs |
        split -b 15M - "$1/runs.tar.gz."
}

unbundle() {
    mkdir -p "$state"
    cat "$1"/runs.tar.gz.* | tar -C "$state" -xzf -
}

case "${1:-} ${2:-}" in
"bundle "?* | "unbundle "?*) "$1" "$2" ;;
"pack "?* | "unpack "?*) exec "$python" scripts/gpu_pack.py "$1" "$2" ;;
"run "*) run "${2:-}" ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
