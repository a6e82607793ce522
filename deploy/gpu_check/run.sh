#!/usr/bin/env bash
# Measure everything on a machine with a GPU, in one go and within ten minutes; write a table.
#
#   where there is a network:   make install && PYTHON=.venv/bin/python deploy/gpu_check/run.sh wheels
#                               (fills wheels/ with all but torch; the embedded Triton is among it)
#   on the machine to measure:  deploy/gpu_check/run.sh
#                               (torch, torchvision and the same version of Python; no network)
#
# Settings, as environment variables: DEVICE=cuda|cpu, PRESET=paper|demo, DTYPES="fp16 bf16",
# BATCHES="1 8 16 32", OUTPUT=runs/gpu_check, WHEELS=wheels, PYTHON=python3, and SECONDS_EACH=420,
# after which a part that hangs is ended. Random weights of full size are made on the spot: 16.4 GB.
set -uo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-wheels}
DEVICE=${DEVICE:-cuda}
PRESET=${PRESET:-paper}
DTYPES=${DTYPES:-fp16 bf16}
BATCHES=${BATCHES:-1 8 16 32}
OUTPUT=${OUTPUT:-runs/gpu_check}
SECONDS_EACH=${SECONDS_EACH:-420}

if [ "${1:-}" = wheels ]; then  # with the Python of `make install`, whose versions are taken
  "$PYTHON" deploy/gpu_check/needed_packages.py > "$WHEELS.txt" &&
    "$PYTHON" -m pip download --quiet --no-deps --dest "$WHEELS" -r "$WHEELS.txt" || exit 1
  du -sh "$WHEELS"
  exit
fi

mkdir -p "$OUTPUT"
OUTPUT=$(cd "$OUTPUT" && pwd)
TABLE=$OUTPUT/table.md
BIN=$OUTPUT/venv/bin
START=$SECONDS
FAILED=0

part() {  # part NAME COMMAND...: run it, keep its output, add it to the table
  local name=$1 begin=$SECONDS status
  shift
  echo "== $name" >&2
  timeout "$SECONDS_EACH" "$@" > "$OUTPUT/$name.txt" 2> "$OUTPUT/$name.log"
  status=$?
  [ $status -eq 0 ] || { FAILED=1; tail -n 5 "$OUTPUT/$name.log" >&2; }
  {
    printf '\n## %s\n\n`%s`\n\n' "$name" "${*//$OUTPUT/OUTPUT}"
    printf 'exit status %s, %s s\n\n```\n' "$status" $((SECONDS - begin))
    cat "$OUTPUT/$name.txt"
    printf '```\n'
  } >> "$TABLE"
}

if [ -d "$WHEELS" ]; then
  if [ ! -x "$BIN/python" ]; then
    "$PYTHON" -m venv "$OUTPUT/venv"
    # What the machine has, behind what is installed here: torch, torchvision and CUDA.
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
      > "$("$BIN/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
  fi
  "$BIN/python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl &&
    "$BIN/python" -m pip install --quiet --no-index --no-deps --no-build-isolation \
      -e ./training -e ./client || exit 1
else
  echo "There is no folder $WHEELS: using the packages of $PYTHON as they are." >&2
  BIN=$(dirname "$(command -v "$PYTHON")")
fi
PY=$BIN/python

{
  echo '# GPU check'
  echo
  echo "- $(date -u +%Y-%m-%dT%H:%M:%SZ), preset $PRESET, device $DEVICE"
  echo "- $("$PY" -c 'import os, torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "with", os.cpu_count(), "CPU cores")')"
  [ "$DEVICE" = cuda ] && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | sed 's/^/- /'
} > "$TABLE"

BENCHMARK=("$PY" -m ma_agiqa benchmark)
read -r FIRST _ <<< "$DTYPES"
LONG=$(case $FIRST in fp16) echo float16 ;; bf16) echo bfloat16 ;; *) echo float32 ;; esac)
SERVED_DEVICE=$([ "$DEVICE" = cuda ] && echo gpu || echo cpu)

# The weights are written once, and read by the first two.
part repository "$PY" deploy/gpu_check/random_repository.py --preset "$PRESET" --dtype "$LONG" \
  --device "$SERVED_DEVICE" --output "$OUTPUT/random"
EMBEDDER=()
[ "$PRESET" = paper ] && EMBEDDER=(--embedder "$OUTPUT/random/weights")
read -ra SIZES <<< "$BATCHES"
for dtype in $DTYPES; do
  part "embedder-$dtype" "${BENCHMARK[@]}" embedder --preset "$PRESET" "${EMBEDDER[@]}" \
    --dtype "$dtype" --device "$DEVICE" "${SIZES[@]/#/--batch=}"
  part "scorer-$dtype" "${BENCHMARK[@]}" scorer --preset "$PRESET" --random-weights \
    --dtype "$dtype" --device "$DEVICE" "${SIZES[@]/#/--batch=}"
done
part served "$PY" deploy/load/bench.py served --repository "$OUTPUT/random/repository" \
  --checkpoint "$OUTPUT/random/checkpoint" --dtype "$LONG" --device "$DEVICE" \
  --in-flight 1 --in-flight 8 --in-flight 32 --in-flight 64 --seconds 5 --rounds 2
part gpu-tests "$PY" -m pytest -q -m gpu tests

{
  printf '\n%s s in all' $((SECONDS - START))
  [ $FAILED -eq 0 ] && echo ', every part ended well.' || echo ', with failures: see the .log files.'
} >> "$TABLE"
cat "$TABLE"
exit $FAILED
