#!/usr/bin/env bash
# results/reference/cifar10_resnet20_quick_*.csv: ResNet-20 on CIFAR-10, recipe=quick (10 epochs), one seed, dense,
# GMP and DPF at 0.9 and 0.95. About 20 minutes a run on two cores of a server CPU; finished runs are skipped.
#
#   scripts/reproduce_cifar10_quick.sh OUTPUT.csv [KEY=VALUE ...]     settings are added to every run
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
output=$1
shift
here=$(dirname -- "${BASH_SOURCE[0]}")
results=results/cifar10_quick
"$here/sparsebench" sweep dataset=cifar10 model=resnet recipe=quick channels_last=true \
    prune=dense,dpf,gmp sparsity=0.9,0.95 "results_dir=$results" "$@"
"$here/sparsebench" collect "$results" -o "$output"
"$here/sparsebench" compare "$results"
