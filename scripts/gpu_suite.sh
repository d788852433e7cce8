#!/usr/bin/env bash
# What needs a GPU, most valuable first, in calls of under ten minutes; call it again until it says "all done".
#
#   scripts/gpu_suite.sh pack FOLDER     CIFAR-10's binary version from $SPARSEBENCH_DATA as parts below 64 MiB in FOLDER
#   scripts/gpu_suite.sh unpack FOLDER   the parts back into $SPARSEBENCH_DATA, once all of them have arrived
#   scripts/gpu_suite.sh run [OUT]       tests, step times, then 300 epochs of dense, GMP and DPF; small CSVs into OUT
#
# PYTHON names the interpreter (default: the repository's .venv, else python3). LIMIT is the time of one call in
# seconds (default 540). What is done is remembered in results/gpu; a training that is cut off goes on in the next call.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

export SPARSEBENCH_DATA=${SPARSEBENCH_DATA:-$HOME/.cache/sparsebench}
limit=${LIMIT:-540}
state=results/gpu
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

find_images() {
    local folder
    for folder in "$SPARSEBENCH_DATA" "$SPARSEBENCH_DATA/cifar10"; do
        if [ -f "$folder/cifar-10-batches-bin/test_batch.bin" ]; then
            echo "$folder"
            return
        fi
    done
    echo "gpu_suite: no cifar-10-batches-bin under SPARSEBENCH_DATA=$SPARSEBENCH_DATA" >&2
    return 1
}

left() { echo $((limit - SECONDS)); }

# stage NAME COMMAND...: run once, with the time that is left; output into NAME.csv or NAME.txt of OUT
stage() {
    local name=$1 status=0
    shift
    [ -e "$state/$name.done" ] && return
    if [ "$(left)" -lt 30 ]; then
        echo "gpu_suite: time is up before $name; call again"
        exit 0
    fi
    echo "gpu_suite: $name"
    timeout "$(left)" "$@" >"$state/$name.part" || status=$?
    if [ "$status" -eq 124 ]; then
        echo "gpu_suite: $name was cut off; call again"
        exit 0
    fi
    cp "$state/$name.part" "$out/$name"
    if [ "$status" -ne 0 ]; then
        echo "gpu_suite: $name failed with status $status; see $out/$name" >&2
        exit "$status"
    fi
    : >"$state/$name.done"
}

train() {
    "$python" -m sparsebench train dataset=cifar10 model=resnet recipe=dpf_cifar precision=bf16 channels_last=true \
        deterministic=true device=cuda save_every=5ep results_dir=results/gpu/runs "$@"
}

run() {
    out=${1:-$state/out}
    mkdir -p "$state" "$out"
    hardware=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "_"))')
    stage tests.txt "$python" -m pytest -m gpu -q
    stage "bench_step_resnet20_$hardware.csv" "$python" scripts/bench_step.py --steps 320 --methods gmp,dpf,ste channels_last=true
    stage "bench_step_resnet50_$hardware.csv" "$python" scripts/bench_step.py model=torchvision model.name=resnet50 \
        --pixels 224 --batch-size 256 --steps 96 precision=bf16 channels_last=true
    stage "bench_select_$hardware.csv" "$python" scripts/bench_select.py
    stage "bench_data_$hardware.csv" "$python" scripts/bench_data.py --synthetic --device cuda
    stage theory.txt "$python" -m sparsebench theory study=overparam_prune device=cuda results_dir=results/gpu/theory \
        'study.diag={n: 4000, informative: 1200, weak: 18800, features: [800, 1200, 3000, 6000, 12000, 20000], keep: []}' \
        'study.rf={n: 4000, d: 2000, keep: 800, features: [1000, 2000, 3000, 6000, 8000], seeds: 4, draws: 8}'
    stage theory_deep.txt "$python" -m sparsebench theory study=deep_random_features device=cuda \
        results_dir=results/gpu/theory study.d=2000 study.test_samples=4000
    find_images >/dev/null
    export -f train
    export python
    stage dense.txt bash -c 'train prune=dense'
    stage dpf.txt bash -c 'train prune=dpf sparsity=0.9'
    stage gmp.txt bash -c 'train prune=gmp sparsity=0.9'
    "$python" -m sparsebench compare results/gpu/runs --format csv -o "$out/cifar10_resnet20_300ep_$hardware.csv"
    cat results/gpu/runs/*/summary.csv | awk 'NR == 1 || !/^schema,/' >"$out/cifar10_resnet20_300ep_${hardware}_runs.csv"
    echo "gpu_suite: all done, results in $out"
}

case "${1:-} ${2:-}" in
"pack "?*)
    mkdir -p "$2"
    tar -C "$(find_images)" -czf - cifar-10-batches-bin | split -b 60M - "$2/cifar10.tar.gz."
    (cd "$2" && sha256sum cifar10.tar.gz.* >cifar10.sha256 && ls -l)
    ;;
"unpack "?*)
    (cd "$2" && sha256sum --quiet -c cifar10.sha256)
    mkdir -p "$SPARSEBENCH_DATA"
    cat "$2"/cifar10.tar.gz.* | tar -C "$SPARSEBENCH_DATA" -xzf -
    ;;
"run "*) run "${2:-}" ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
