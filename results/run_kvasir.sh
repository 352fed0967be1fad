#!/usr/bin/env bash
# The table of methods on Kvasir-SEG: methods x seeds, skips what is finished, goes on after a kill.
#   results/run_kvasir.sh configs/kvasir_gps.yaml full           # the full schedule, for a CUDA machine
#   SEEDS=0 results/run_kvasir.sh configs/kvasir_cpu.yaml cpu    # the reduced budget of results/kvasir/cpu
# Further arguments are settings, such as train.max_steps=10.
set -euo pipefail
config=$1 name=$2
shift 2
for method in ${METHODS:-gps full head bitfit}; do
  for seed in ${SEEDS:-0 1 2}; do
    out=runs/kvasir-$name/$method-$seed
    gps-seg train "$config" "method=$method" "seed=$seed" "$@" --out "$out" --resume
    mkdir -p "results/kvasir/$name"
    cp "$out/result.json" "results/kvasir/$name/$method-$seed.json"
  done
done
