#!/usr/bin/env bash
# results/reference/cifar10_resnet20_all_methods_*.csv: every method at sparsity 0.9 on CIFAR-10 with one short budget
# (conf/experiment/all_methods_cifar10.yaml), one seed. About 3 minutes a training on one core of a server CPU, 40 trainings;
# finished runs are skipped. Methods of several trainings have two rounds here, to end in time.
#
#   scripts/reproduce_all_methods_cifar10.sh OUTPUT.csv [KEY=VALUE ...]     settings are added to every run
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
output=$1
shift
here=$(dirname -- "${BASH_SOURCE[0]}")
results=results/all_methods_cifar10
run() { "$here/sparsebench" train experiment=all_methods_cifar10 "results_dir=$results" "$@"; }
for option in "$here"/../conf/prune/*.yaml; do
    method=$(basename "$option" .yaml)
    case $method in
        imp | lr_rewind | lottery) run "prune=$method" prune.rounds=2 "$@" ;;
        continuous_sparsification) run "prune=$method" prune.rounds=1 "$@" ;;
        *) run "prune=$method" "$@" ;;
    esac
done
"$here/sparsebench" collect "$results" -o "$output"
"$here/sparsebench" compare "$results"
