#!/usr/bin/env bash
# The cost tables: every method side by side, eager and compiled, into results/cost.
#   results/run_cost.sh cuda                                   # SAM ViT-B, L and H at 1024 px in bf16, on a CUDA machine
#   results/run_cost.sh cpu                                    # ViT-B/16 224, LiteMedSAM 256, SAM ViT-B 512 and 1024 in fp32
#   MODELS="tiny:64:1" results/run_cost.sh cuda --device cpu --repetitions 1     # the same script, tried out anywhere
set -euo pipefail
kind=$1
shift
all=floor,gps,full,head,bitfit,lora,shira,adapter,ssf
few=floor,gps,full,lora
out=${OUT:-results/cost}
measure() {  # model:size:batch, methods, name, further arguments
  IFS=: read -r model size batch <<< "$1"
  gps-seg benchmark cost --model "$model" --size "$size" --batch "$batch" --methods "$2" \
    --json "$out/$3_${model}_${size}.json" --plot "$out/$3_${model}_${size}.png" "${@:4}"
}
if [ "$kind" = cuda ]; then
  for entry in ${MODELS-sam_vit_b:1024:1 sam_vit_l:1024:1 sam_vit_h:1024:1}; do
    measure "$entry" $all cuda_bf16 --precision bf16 --frozen-storage compute "$@"
    measure "$entry" $few cuda_bf16_compiled --precision bf16 --frozen-storage compute --compiled "$@"
  done
else
  for entry in ${MODELS-vit_base_patch16_224:224:8 lite_medsam:256:1 sam_vit_b:512:1}; do
    measure "$entry" $all cpu_fp32 "$@"
  done
  for entry in ${FEW-sam_vit_b:1024:1}; do measure "$entry" full,floor,gps,gps:cheap,gps:blocks,lora cpu_fp32 "$@"; done
  for entry in ${LEAN-lite_medsam:128:4 lite_medsam:256:4}; do
    measure "$entry" gps:stock,gps:lean,floor:stock,floor:lean,full:stock,full:lean,lora:stock,lora:lean cpu_bf16 --precision bf16 "$@"
  done
  for entry in ${COMPILED-vit_base_patch16_224:224:8}; do measure "$entry" $few cpu_fp32_compiled --compiled "$@"; done
fi
