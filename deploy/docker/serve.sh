#!/usr/bin/env bash
# Starts tritonserver in the container. More options of tritonserver may follow: serve.sh --log-verbose=1
#
# MODEL_REPOSITORY     folder of the models (default /models)
# EXPLAIN=1            also serve mplug_owl2_answer, which explains images in words
# MA_AGIQA_ADMIN_KEY   who sends it as triton-grpc-protocol-admin-key may load and unload models over
#                      gRPC; without it nobody may
# PROBE_KEY_FILE       where probe.py finds the key that lets it score over HTTP
# TRACE_URL            send OpenTelemetry traces there, such as http://collector:4318/v1/traces
# TRACE_ONE_IN         trace one of so many requests (default 100)
# LOG_FORMAT=json      write the log as JSON, one object a line
# MA_AGIQA_REQUEST_LOG=1   write a line for each request
set -euo pipefail

repository=${MODEL_REPOSITORY:-/models}
models=()
for config in "$repository"/*/config.pbtxt; do
  model=$(basename "$(dirname "$config")")
  [[ $model == mplug_owl2_answer && ${EXPLAIN:-0} != 1 ]] || models+=("$model")
done

# A key that nobody learns closes what nobody needs. The probe alone reads its own: HTTP scores for it
# only, callers use gRPC.
random_key() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
closed_key=$(random_key)
admin_key=${MA_AGIQA_ADMIN_KEY:-$(random_key)}
(umask 077 && printf %s "$closed_key" > "${PROBE_KEY_FILE:-/tmp/ma-agiqa-probe-key}")

options=(
  "--model-repository=$repository"
  --model-control-mode=explicit
  "${models[@]/#/--load-model=}"
  --disable-auto-complete-config
  "--grpc-restricted-protocol=shared-memory,logging,trace:closed=$closed_key"
  "--grpc-restricted-protocol=model-repository:admin-key=$admin_key"
  "--http-restricted-api=shared-memory,logging,trace,model-repository,inference:closed=$closed_key"
  # Callers find new replicas, and leave those that stop, because no connection lives for long.
  --grpc-max-connection-age=30000
  --grpc-max-connection-age-grace=120000
  # What is being computed may end after SIGTERM; the preStop hook has drained the rest.
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
  exec > >(exec python3 "$(dirname "$0")/../monitoring/json_log.py") 2>&1
fi
exec tritonserver "${options[@]}" "$@"
