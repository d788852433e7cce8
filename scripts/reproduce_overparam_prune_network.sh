#!/usr/bin/env bash
# results/reference/theory/overparam_prune_network_cifar10*: two-layer networks of growing width with 12,328 non-zero
# weights on 2,000 CIFAR-10 images (99 runs, about 25 minutes on one core), and least squares on features of the images.
#
#   scripts/reproduce_overparam_prune_network.sh [KEY=VALUE ...]     settings are added to every run
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
"$here/sparsebench" sweep experiment=overparam_prune_network "$@"
"$here/sparsebench" theory study=overparam_prune_network study.dataset=cifar10 study.n=400 study.keep=50 \
    'study.features=[50,100,200,300,350,450,600,1000,2000]' study.images=20000 study.runs=results/overparam_prune_network
