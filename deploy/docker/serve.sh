#!/usr/bin/env bash
# Starts tritonserver in the container. More options of tritonserver may follow: serve.sh --log-verbose=1
#
# MODEL_REPOSITORY     folder of the models (default /models)
# EXPLAIN=1            also serve mplug_owl2_answer, which explains images in words
# MA_AGIQA_CORES       cores it may use (default: the machine's). So many images are decoded at once;
#                      each of the two networks computes with half of them (OMP_NUM_THREADS)
# MA_AGIQA_ADMIN_KEY   who sends it as triton-grpc-protocol-admin-key may load and unload models over
#                      gRPC; without it nobody may
# PROBE_KEY_FILE       where probe.py finds the key that lets it score over HTTP
# SHM_PREFIX           how its regions in /dev/shm are called (default ma-agiqa-server-). Those that a
#                      killed server left are removed, so where servers share /dev/shm each needs its own
# DRAIN_S              how long requests under way may take after SIGTERM (default 60)
# WATCH_S              probe every so many seconds, and end when four probes in a row find no score:
#                      Docker restarts what has ended, but not what is unhealthy
# TRACE_URL            send OpenTelemetry traces there, such as http://collector:4318/v1/traces
# TRACE_ONE_IN         trace one of so many requests (default 100)
# LOG_FORMAT=json      write the log as JSON, one object a line
# MA_AGIQA_REQUEST_LOG=1   write a line for each request
set -euo pipefail

here=$(dirname "$0")
repository=${MODEL_REPOSITORY:-/models}
models=()
for config in "$repository"/*/config.pbtxt; do
  model=$(basename "$(dirname "$config")")
  [[ $model == mplug_owl2_answer && ${EXPLAIN:-0} != 1 ]] || models+=("$model")
done

# Two networks compute at the same time, each in a process of its own. Given all cores each, they spin
# against one another. nproc alone would answer with OMP_NUM_THREADS.
export MA_AGIQA_CORES=${MA_AGIQA_CORES:-$(env -u OMP_NUM_THREADS nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((MA_AGIQA_CORES > 1 ? MA_AGIQA_CORES / 2 : 1))}

# The allocator keeps this much for the next batch: taking it from the kernel anew costs more.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-268435456}

# A pod's /dev/shm outlives its containers, and so do the regions of a server that was killed.
shm_prefix=${SHM_PREFIX:-ma-agiqa-server-}
rm -f "/dev/shm/$shm_prefix"*

# A key that nobody learns closes what nobody needs. The probe and the drain alone read theirs: HTTP
# scores and unloads for them only, callers use gRPC.
random_key() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
closed_key=$(random_key)
admin_key=${MA_AGIQA_ADMIN_KEY:-$(random_key)}
(umask 077 && printf %s "$closed_key" > "${PROBE_KEY_FILE:-/tmp/ma-agiqa-probe-key}")

options=(
  "--model-repository=$repository"
  --model-control-mode=explicit
  "${models[@]/#/--load-model=}"
  --disable-auto-complete-config
  "--backend-config=python,shm-region-prefix-name=$shm_prefix"
  "--grpc-restricted-protocol=shared-memory,logging,trace:closed=$closed_key"
  "--grpc-restricted-protocol=model-repository:admin-key=$admin_key"
  "--http-restricted-api=shared-memory,logging,trace,model-repository,inference:closed=$closed_key"
  # Callers find new replicas, and leave those that stop, because no connection lives for long.
  --grpc-max-connection-age=30000
  --grpc-max-connection-age-grace=120000
  # What is being computed may end; the drain has waited for the rest.
  --exit-timeout-secs=60
  --log-format=ISO8601
)
if [[ -n ${TRACE_URL:-} ]]; then
  options+=(
    --trace-config=mode=opentelemetry
    --trace-config=level=TIMESTAMPS
    "--trace-config=rate=${TRACE_ONE_IN:-100}"
    "--trace-config=opentelemetry,url=$TRACE_URL"
    --trace-config=opentelemetry,resource=service.name=ma-agiqa
  )
fi
if [[ ${LOG_FORMAT:-} == json ]]; then
  exec > >(exec python3 "$here/../monitoring/json_log.py") 2>&1
fi

# tritonserver, told to stop, breaks off what is between two steps; so first nothing new comes.
stop() {
  trap '' TERM INT
  python3 "$here/drain.py" --timeout "${DRAIN_S:-60}" || true
  kill -TERM "$server" 2> /dev/null || true
  wait "$server"
  exit
}

watch() {
  local said='' scored='' failures=0
  while sleep "$WATCH_S" && kill -0 "$server" 2> /dev/null; do
    if said=$(python3 "$here/probe.py" 2>&1); then
      scored=1 failures=0
    elif [[ -n $scored ]] && ((++failures == 4)); then
      echo "serve.sh ends the server, four probes in a row found no score: $said"
      kill -KILL "$server"
    fi
  done
}

tritonserver "${options[@]}" "$@" &
server=$!
trap stop TERM INT
if [[ -n ${WATCH_S:-} ]]; then
  watch &
fi
wait "$server"
