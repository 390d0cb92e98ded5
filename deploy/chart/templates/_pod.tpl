{{/* The server's container: the same in the Deployment and in KServe's runtime. */}}
{{- define "personserve.container" -}}
{{- $figures := include "personserve.figures" . | fromJson -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if .Values.supervised }}
command: [python3, -m, builders, serve]
args:
  - --target={{ .Values.target }}
  - --cores={{ .Values.cores }}
  {{- range $figures.models }}
  - --model={{ . }}
  {{- end }}
  - --host=0.0.0.0
  {{- if .Values.tls.secretName }}
  - --tls-cert=/tls/tls.crt
  - --tls-key=/tls/tls.key
  {{- end }}
  {{- if .Values.access.token }}
  - --token-file=/access/token
  {{- end }}
  {{- if not (and .Values.tls.secretName .Values.access.token) }}
  - --exposed
  {{- end }}
  - --drain-delay={{ .Values.drain.unreadySeconds }}
  - --drain-timeout={{ .Values.drain.timeoutSeconds }}
  - --metrics-config=summary_latencies=true
{{- else }}
command: [tritonserver]
args:
  - --model-repository={{ ternary "/mnt/models" "/personserve/model_repository" (ne .Values.kserve.storageUri "") }}
  - --model-control-mode=explicit
  {{- range $figures.models }}
  - --load-model={{ . }}
  {{- end }}
  - --disable-auto-complete-config
  - --backend-config=python,shm-default-byte-size={{ int64 $figures.reserved_bytes }}
  {{- if int64 $figures.pool_bytes }}
  # a pod has one GPU
  - --cuda-memory-pool-byte-size=0:{{ int64 $figures.pool_bytes }}
  {{- end }}
  - --exit-timeout-secs={{ .Values.drain.timeoutSeconds }}
  - --allow-http=false
  - --grpc-address=0.0.0.0
  - --grpc-port={{ $figures.ports.grpc }}
  - --metrics-address=0.0.0.0
  - --metrics-port={{ $figures.ports.metrics }}
  {{- range concat $figures.restrictions (ternary $figures.token_restrictions list .Values.access.token) }}
  - --grpc-restricted-protocol={{ . }}
  {{- end }}
  - --metrics-config=summary_latencies=true
{{- end }}
env:
  # a __pycache__ in a model's folder makes Triton reload the model
  - {name: PYTHONDONTWRITEBYTECODE, value: "1"}
  - {name: XDG_CACHE_HOME, value: /tmp/cache}
  - {name: PERSONSERVE_METRICS_URL, value: "http://127.0.0.1:{{ $figures.ports.metrics }}/metrics"}
  {{- if not .Values.supervised }}
  - name: PERSONSERVE_KEY
    valueFrom: {secretKeyRef: {name: {{ .Values.access.secretName }}, key: key}}
  {{- if .Values.access.token }}
  - name: PERSONSERVE_TOKEN
    valueFrom: {secretKeyRef: {name: {{ .Values.access.secretName }}, key: token}}
  {{- end }}
  {{- end }}
ports:
  - {name: grpc, containerPort: {{ $figures.ports.grpc }}}
  - {name: metrics, containerPort: {{ $figures.metrics_port }}}
{{- $threshold := div (int64 $figures.start_s) 5 }}
{{- if .Values.supervised }}
startupProbe:
  httpGet: {path: /ready, port: metrics}
  periodSeconds: 5
  failureThreshold: {{ $threshold }}
readinessProbe:
  httpGet: {path: /ready, port: metrics}
  periodSeconds: 2
  failureThreshold: 1
livenessProbe:
  httpGet: {path: /live, port: metrics}
  periodSeconds: 5
  failureThreshold: 3
{{- else }}
startupProbe:
  grpc: {port: {{ $figures.ports.grpc }}}
  periodSeconds: 5
  failureThreshold: {{ $threshold }}
readinessProbe:
  grpc: {port: {{ $figures.ports.grpc }}}
  periodSeconds: 2
  failureThreshold: 1
livenessProbe:  # Triton's own stay positive while a Python process is dead
  exec: {command: [python3, {{ ternary "/mnt/models" "/personserve/model_repository" (ne .Values.kserve.storageUri "") }}/liveness.py]}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}
lifecycle:
  preStop:  # the address leaves DNS and the proxy's list before SIGTERM
    sleep: {seconds: {{ .Values.drain.delaySeconds }}}
resources:
  requests: &resources
    cpu: {{ .Values.cores }}
    memory: {{ $figures.memory_mib }}Mi
    {{- if ne .Values.target "cpu" }}
    {{ .Values.gpu.resource }}: 1
    {{- end }}
  limits: *resources
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
  {{- if not .Values.kserve.enabled }}
  - {name: repository, mountPath: /personserve/model_repository}
  {{- end }}
  {{- if .Values.tls.secretName }}
  - {name: tls, mountPath: /tls, readOnly: true}
  {{- end }}
  {{- if and .Values.supervised .Values.access.token }}
  - {name: access, mountPath: /access, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "personserve.volumes" -}}
{{- $figures := include "personserve.figures" . | fromJson -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ $figures.shm_mib }}Mi}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if .Values.tls.secretName }}
- name: tls
  secret: {secretName: {{ .Values.tls.secretName }}}
{{- end }}
{{- if and .Values.supervised .Values.access.token }}
- name: access
  secret:
    secretName: {{ .Values.access.secretName }}
    items: [{key: token, path: token}]
{{- end }}
{{- end -}}

{{- define "personserve.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}
