{{- define "ma-agiqa.name" -}}
{{- if .Values.nameOverride }}{{ .Values.nameOverride }}
{{- else if contains "ma-agiqa" .Release.Name }}{{ .Release.Name }}
{{- else }}{{ .Release.Name }}-ma-agiqa
{{- end }}
{{- end }}

{{- define "ma-agiqa.selector" -}}
app.kubernetes.io/name: ma-agiqa
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "ma-agiqa.labels" -}}
app.kubernetes.io/name: ma-agiqa
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ma-agiqa.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}{{ end }}
{{- end }}

{{- /* The Deployment of the servers, which KServe names after its resource. */}}
{{- define "ma-agiqa.deployment" -}}
{{ include "ma-agiqa.name" . }}{{ if .Values.kserve }}-predictor{{ end }}
{{- end }}

{{- define "ma-agiqa.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "ma-agiqa.pod-security" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Requests and limits are the same: the kubelet evicts such pods last. */}}
{{- define "ma-agiqa.resources" -}}
{{- range $kind := list "requests" "limits" }}
{{ $kind }}:
  cpu: {{ $.cores | quote }}
  memory: {{ $.memory }}
  ephemeral-storage: {{ $.disk }}
  {{- if $.gpus }}
  {{ $.resource }}: {{ $.gpus | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The folder of the weights: another model, revision or dtype is another folder. */}}
{{- define "ma-agiqa.weights-folder" -}}
{{- with .Values.weights -}}
{{- $revision := required "weights.revision: give the commit of the model on the hub for which the scorer was exported." .revision -}}
/weights/{{ .model | replace "/" "--" }}--{{ $revision }}--{{ .dtype | default "original" }}
{{- end }}
{{- end }}

{{- define "ma-agiqa.weights-claim" -}}
{{ .Values.weights.claim | default (printf "%s-weights" (include "ma-agiqa.name" .)) }}
{{- end }}

{{- /* On which nodes a pod may run, by the number of its GPUs. */}}
{{- define "ma-agiqa.gpu-nodes" -}}
{{- $gpu := .root.Values.gpu -}}
{{- $tolerations := .tolerations }}
{{- if .gpus }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- with $gpu.runtimeClass }}
runtimeClassName: {{ . }}
{{- end }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        # Labels of NVIDIA's GPU feature discovery. A GPU that is too small, too old, or has an old driver
        # would restart for ever.
        - matchExpressions:
            - {key: nvidia.com/cuda.driver-version.major, operator: Gt, values: [{{ sub (int $gpu.driver) 1 | quote }}]}
            - {key: nvidia.com/gpu.compute.major, operator: Gt, values: [{{ sub (int $gpu.computeMajor) 1 | quote }}]}
            {{- if and $gpu.memoryGiB (eq $gpu.resource "nvidia.com/gpu") }}
            - {key: nvidia.com/gpu.memory, operator: Gt, values: [{{ sub (mul 1024 (int $gpu.memoryGiB)) 1 | quote }}]}
            {{- end }}
{{- end }}
{{- with $tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "ma-agiqa.wait-for-weights" -}}
initContainers:
  - name: wait-for-weights
    image: {{ include "ma-agiqa.image" . }}
    command:
      - timeout
      - {{ printf "%dm" (int .Values.weights.waitMinutes) }}
      - bash
      - -c
      - until [[ -e {{ include "ma-agiqa.weights-folder" . }}/complete ]]; do sleep 5; done
    env:
      - {name: NVIDIA_VISIBLE_DEVICES, value: void} # the base image asks for every GPU
    resources:
      {{- include "ma-agiqa.resources" (dict "cores" "50m" "memory" "64Mi" "disk" "16Mi") | nindent 6 }}
    securityContext:
      {{- include "ma-agiqa.container-security" . | nindent 6 }}
    volumeMounts:
      - {name: weights, mountPath: /weights, readOnly: true}
{{- end }}

{{- /* The servers' pod; KServe wants names of its own for the container and the ports. */}}
{{- define "ma-agiqa.pod" -}}
{{- $container := ternary "kserve-container" "triton" .Values.kserve -}}
{{- $server := .Values.server -}}
{{ include "ma-agiqa.pod-security" . }}
# preStop, the same time for requests in flight (DRAIN_S) and again for what is still computed, and 30 s
# to unload the models.
terminationGracePeriodSeconds: {{ add (mul 3 $server.drainSeconds) 30 }}
{{- with $server.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := ternary (list "kubernetes.io/hostname" "topology.kubernetes.io/zone") (list "kubernetes.io/hostname") $server.zones }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector: {matchLabels: {{ include "ma-agiqa.selector" $ | fromYaml | toJson }}}
  {{- end }}
{{- with $server.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- include "ma-agiqa.gpu-nodes" (dict "root" . "gpus" .Values.gpu.count "tolerations" $server.tolerations) }}
{{- if .Values.weights.enabled }}
{{ include "ma-agiqa.wait-for-weights" . }}
{{- end }}
containers:
  - name: {{ $container }}
    image: {{ include "ma-agiqa.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    env:
      # Not those of the node: more threads than cores are slower, and each image that is decoded takes
      # memory.
      - name: MA_AGIQA_CORES
        valueFrom: {resourceFieldRef: {containerName: {{ $container }}, resource: requests.cpu}}
      # Whoever knows the key may load models (rollouts); without the secret no one may.
      - name: MA_AGIQA_ADMIN_KEY
        valueFrom: {secretKeyRef: {name: {{ $server.adminSecret }}, key: key, optional: true}}
      - {name: DRAIN_S, value: {{ $server.drainSeconds | quote }}}
      - {name: READY_TIMEOUT_S, value: {{ mul 60 $server.startMinutes | quote }}}
      {{- if not .Values.gpu.count }}
      - {name: NVIDIA_VISIBLE_DEVICES, value: void} # the base image asks for every GPU
      {{- end }}
      {{- if .Values.weights.enabled }}
      - {name: HF_HOME, value: {{ include "ma-agiqa.weights-folder" . | quote }}}
      {{- end }}
      {{- range $name, $value := $server.env }}
      - {name: {{ $name }}, value: {{ kindIs "float64" $value | ternary (toJson $value) (toString $value) | quote }}}
      {{- end }}
    ports:
      {{- if .Values.kserve }}
      # KServe routes to the first port that has the name of a protocol: gRPC.
      - {name: h2c, containerPort: 8001}
      {{- else }}
      - {name: grpc, containerPort: 8001}
      {{- end }}
      - {name: http, containerPort: 8000}
      - {name: metrics, containerPort: 8002}
    # Reading the weights from a network disk and warming up take minutes.
    startupProbe:
      httpGet: {path: /v2/health/ready, port: 8000}
      periodSeconds: 10
      failureThreshold: {{ mul 6 $server.startMinutes }}
      terminationGracePeriodSeconds: 10 # what has failed has nothing to finish; else preStop would wait
    readinessProbe:
      httpGet: {path: /v2/health/ready, port: 8000}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 2
    # A real inference: Triton says that it is healthy when a model's process is dead. A busy server is
    # not restarted: one that refuses the probe, or does not come to it in time, lives if others get
    # scores; and it takes 4 failures in 80 s.
    livenessProbe:
      exec: {command: [python3, /opt/ma-agiqa/deploy/serve.py, --check, --check-timeout, "10"]}
      periodSeconds: 20
      timeoutSeconds: 12
      failureThreshold: 4
      terminationGracePeriodSeconds: 10
    lifecycle:
      # First nothing new comes: balancers drop the pod within seconds, and clients that balance by
      # themselves lose their connection after 30 s, look up the addresses again, and do not find this
      # pod. After that serve.py refuses what still comes, and lets requests in flight finish.
      preStop: {sleep: {seconds: {{ $server.drainSeconds }}}}
    resources:
      {{- include "ma-agiqa.resources" (dict "cores" $server.cores "memory" $server.memory "disk" $server.disk "gpus" .Values.gpu.count "resource" .Values.gpu.resource) | nindent 6 }}
    securityContext:
      {{- include "ma-agiqa.container-security" . | nindent 6 }}
    volumeMounts:
      - {name: dshm, mountPath: /dev/shm}
      - {name: tmp, mountPath: /tmp}
      {{- if $server.repositoryClaim }}
      - {name: repositories, mountPath: /repositories, readOnly: true}
      {{- end }}
      {{- if .Values.weights.enabled }}
      - {name: weights, mountPath: /weights, readOnly: true}
      {{- end }}
volumes:
  # Images and views pass between Triton's processes here; it counts as the pod's memory.
  - name: dshm
    emptyDir: {medium: Memory, sizeLimit: {{ $server.sharedMemory }}}
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  {{- with $server.repositoryClaim }}
  - name: repositories
    persistentVolumeClaim: {claimName: {{ . }}}
  {{- end }}
  {{- if .Values.weights.enabled }}
  - name: weights
    persistentVolumeClaim: {claimName: {{ include "ma-agiqa.weights-claim" . }}}
  {{- end }}
{{- end }}

{{- /* What replicas follow: name, PromQL, and how much of it one replica can do. Whichever asks for most
replicas decides. All of them are empty, never 0, where Prometheus knows no server. */}}
{{- define "ma-agiqa.signals" -}}
{{- $pods := printf "namespace=%q,pod=~\"%s(-predictor)?-[a-z0-9]+-[a-z0-9]{5}\"" .Release.Namespace (include "ma-agiqa.name" .) -}}
{{- $scaling := .Values.autoscaling -}}
# Images that wait for a step. The ensemble's own count stays 0, and a request has up to 32 images.
- name: waiting-images
  target: {{ $scaling.waitingImages }}
  query: >-
    sum(nv_inference_pending_request_count{ {{- $pods }},model=~"preprocess|mplug_owl2|maniqa_moe"})
    * (sum(rate(ma_agiqa_batch_images_sum{ {{- $pods }},step="mplug_owl2"}[5m]))
    / (sum(rate(nv_inference_request_success{ {{- $pods }},model="mplug_owl2"}[5m])) > 0) or vector(1))
# Servers' worth of time in which each step computes. Without these, replicas leave as soon as the queue is
# empty, although all of them are busy, and the queue comes back.
- name: embedder-busy
  target: {{ $scaling.busy }}
  query: >-
    sum(rate(ma_agiqa_busy_seconds_total{ {{- $pods }},step="mplug_owl2"}[1m]))
- name: scorer-busy
  target: {{ $scaling.busy }}
  query: >-
    sum(sum by (pod) (rate(nv_inference_exec_count{ {{- $pods }},model="maniqa_moe"}[1m]))
    * sum by (pod) (rate(nv_inference_compute_infer_duration_us{ {{- $pods }},model="maniqa_moe"}[1m]))
    / sum by (pod) (rate(nv_inference_request_success{ {{- $pods }},model="maniqa_moe"}[1m]) > 0)
    or 0 * sum by (pod) (nv_inference_exec_count{ {{- $pods }},model="maniqa_moe"})) / 1e6
# Cores that decode; the rest of a server's cores make the views and run Triton.
- name: cores-decoding
  target: {{ mulf $scaling.decoding $.Values.server.cores }}
  query: >-
    sum(rate(ma_agiqa_decode_seconds_sum{ {{- $pods }}}[1m]))
# Servers that would have had to be there for what was refused, at least a quarter more and at most four
# times as many; 0 while next to nothing is refused.
- name: servers-for-refused
  target: 1
  query: >-
    count(sum by (pod) (nv_inference_request_success{ {{- $pods }},model="meter"}))
    * (clamp(1 / (1 - clamp_max(sum(rate(ma_agiqa_images_total{ {{- $pods }},outcome="overloaded"}[1m]))
    / sum(rate(ma_agiqa_images_total{ {{- $pods }}}[1m])) > {{ $scaling.refused }}, 0.75)), 1.25, 4) or vector(0))
{{- end }}

{{- define "ma-agiqa.scaling-behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
    - {type: Pods, value: 4, periodSeconds: 60}
  selectPolicy: Max
# A pod takes minutes to start, so few leave at a time, and only when it has been calm.
scaleDown:
  stabilizationWindowSeconds: 600
  policies:
    - {type: Percent, value: 10, periodSeconds: 60}
    - {type: Pods, value: 1, periodSeconds: 60}
  selectPolicy: Max
{{- end }}

{{- /* The pod that fetches the weights. */}}
{{- define "ma-agiqa.weights-pod" }}
metadata:
  labels:
    app.kubernetes.io/name: ma-agiqa
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/component: fetch-weights
spec:
  restartPolicy: OnFailure
  # Where the servers run, which may be the only nodes that reach the volume.
  {{- with .Values.server.nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  tolerations: {{ append .Values.server.tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") | toJson }}
  {{- include "ma-agiqa.pod-security" . | nindent 2 }}
  containers:
    - name: fetch
      image: {{ include "ma-agiqa.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python3, -c, {{ .Files.Get "files/fetch_weights.py" | toJson }}]
      args:
        - --model={{ .Values.weights.model }}
        - --revision={{ .Values.weights.revision }}
        - --sha256={{ .Values.weights.sha256 }}
        - --dtype={{ .Values.weights.dtype }}
        - --folder={{ include "ma-agiqa.weights-folder" . }}
      env:
        - {name: HF_HUB_OFFLINE, value: "0"}
        - {name: NVIDIA_VISIBLE_DEVICES, value: void} # the base image asks for every GPU
        {{- with .Values.weights.endpoint }}
        - {name: HF_ENDPOINT, value: {{ . | quote }}}
        {{- end }}
        - name: HF_TOKEN
          valueFrom: {secretKeyRef: {name: {{ .Values.weights.tokenSecret }}, key: token, optional: true}}
      resources:
        {{- include "ma-agiqa.resources" (dict "cores" 2 "memory" .Values.weights.memory "disk" "1Gi") | nindent 8 }}
      securityContext:
        {{- include "ma-agiqa.container-security" . | nindent 8 }}
      volumeMounts:
        - {name: weights, mountPath: /weights}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: weights
      persistentVolumeClaim: {claimName: {{ include "ma-agiqa.weights-claim" . }}}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
{{- end }}

{{- /* A pod of a bulk job, by the number of its GPUs; Ray writes to its own file system. */}}
{{- define "ma-agiqa.bulk-pod" -}}
{{- $bulk := .root.Values.bulk -}}
{{- $weights := and $bulk.checkpoint .root.Values.weights.enabled -}}
metadata:
  labels:
    ma-agiqa/client: "true" # the servers' network policy lets it call them
    app.kubernetes.io/name: ma-agiqa
    app.kubernetes.io/instance: {{ .root.Release.Name }}
    app.kubernetes.io/component: bulk
spec:
  {{- include "ma-agiqa.pod-security" .root | nindent 2 }}
  {{- include "ma-agiqa.gpu-nodes" (dict "root" .root "gpus" .gpus "tolerations" list) | nindent 2 }}
  {{- if $weights }}
  {{- include "ma-agiqa.wait-for-weights" .root | nindent 2 }}
  {{- end }}
  containers:
    - name: ray
      image: {{ $bulk.image }}
      {{- $env := $bulk.env }}
      {{- if $weights }}
      {{- $env = concat $env (list (dict "name" "HF_HOME" "value" (include "ma-agiqa.weights-folder" .root)) (dict "name" "HF_HUB_OFFLINE" "value" "1")) }}
      {{- end }}
      {{- with $env }}
      env: {{ toJson . }}
      {{- end }}
      resources:
        {{- include "ma-agiqa.resources" (dict "cores" $bulk.cores "memory" $bulk.memory "disk" "4Gi" "gpus" .gpus "resource" .root.Values.gpu.resource) | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities: {drop: [ALL]}
      {{- if $weights }}
      volumeMounts:
        - {name: weights, mountPath: /weights, readOnly: true}
  volumes:
    - name: weights
      persistentVolumeClaim: {claimName: {{ include "ma-agiqa.weights-claim" .root }}}
      {{- end }}
{{- end }}

{{- define "ma-agiqa.bulk-spec" -}}
{{- $bulk := .Values.bulk -}}
{{- if and $bulk.gpus (not $bulk.checkpoint) }}
{{- fail "bulk.gpus: only workers that load models need GPUs; give bulk.checkpoint, too." }}
{{- end -}}
entrypoint: >-
  python -m ma_agiqa_client.bulk {{ required "bulk.input: give the table of the images." $bulk.input | squote }}
  --output {{ required "bulk.output: give the folder of the scores." $bulk.output | squote }} --ray auto
  {{- if $bulk.checkpoint }}
  --local {{ squote $bulk.checkpoint }} --gpus {{ ternary 1 0 (gt (int $bulk.gpus) 0) }}
  {{- if .Values.weights.enabled }} --dtype {{ .Values.weights.dtype | default "float16" }}{{ end }}
  {{- else }}
  --url dns:///{{ include "ma-agiqa.name" . }}-pods.{{ .Release.Namespace }}:8001 --workers {{ mul $bulk.workers $bulk.cores }}
  {{- end }}
  {{- range $bulk.args }} {{ squote . }}{{ end }}
# The operator sends the job itself: pods of its own kind would not keep the restricted standard.
submissionMode: HTTPMode
backoffLimit: 3 # with a new cluster; finished parts are kept
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: 600
rayClusterSpec:
  rayVersion: {{ $bulk.rayVersion }}
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template:
      {{- include "ma-agiqa.bulk-pod" (dict "root" . "gpus" 0) | nindent 6 }}
  workerGroupSpecs:
    - groupName: workers
      replicas: {{ $bulk.workers }}
      minReplicas: {{ $bulk.workers }}
      maxReplicas: {{ $bulk.workers }}
      # Ray itself counts no slices of GPUs.
      rayStartParams: {{ ternary (dict "num-gpus" (toString $bulk.gpus)) dict (gt (int $bulk.gpus) 0) | toJson }}
      template:
        {{- include "ma-agiqa.bulk-pod" (dict "root" . "gpus" $bulk.gpus) | nindent 8 }}
{{- end }}
