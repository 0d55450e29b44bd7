#!/usr/bin/env bash
# What only a GPU can show, in under eight minutes on one card and without a model hub. Results are JSON files in OUTPUT.
#
#   bash benchmarks/gpu.sh OUTPUT        (PYTHON=… for another interpreter than the one on the PATH)
#
# It has not been run, on a GPU or elsewhere: no figure of a GPU stands anywhere in this repository.
set -uo pipefail
output=${1:?usage: bash benchmarks/gpu.sh OUTPUT}
python=${PYTHON:-python}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 1
cd "$root" || exit 1
export PYTHONPATH="$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1

"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
  { echo "no CUDA device for $python: nothing is measured" >&2; exit 1; }

failed=()
part() { # NAME SECONDS COMMAND…
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$output/$name.log" || failed+=("$name")
}

part engine 150 "$python" benchmarks/gpu.py --json "$output/engine.json"
part sharing-sdpa 120 "$python" benchmarks/shared_prompt.py --dtype bfloat16 --json "$output/sharing-sdpa.json"
if "$python" -c 'import flash_attn' 2>/dev/null; then
  part sharing-flash 120 "$python" benchmarks/shared_prompt.py --dtype bfloat16 --attention flash_attention_2 \
    --json "$output/sharing-flash.json"
else
  echo "flash-attn is not installed: sdpa only"
fi
part estimator 60 "$python" benchmarks/estimator.py

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]} (their logs are in $output)" >&2
  exit 1
fi
echo "results are in $output"
