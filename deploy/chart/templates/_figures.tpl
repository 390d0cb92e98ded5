{{/*
What the chosen models need on the chosen cores, as JSON: models, reserved_bytes, pool_bytes, shm_mib,
memory_mib, grace_s, metrics_port. The formula is that of builders/serve/resources.py;
builders/deployment/figures.py explains the terms.
*/}}
{{- define "personserve.figures" -}}
{{- $all := .Files.Get "files/figures.json" | fromJson -}}
{{- $processes := get $all.targets .Values.target -}}
{{- $models := .Values.models | default $all.default_models -}}
{{- $steps := dict -}}
{{- range $model := $models -}}
  {{- if not (or (hasKey $all.ensembles $model) (hasKey $processes $model)) -}}
    {{- fail (printf "models: no model %q; there are: %s" $model (join ", " (concat (keys $all.ensembles) (keys $processes) | sortAlpha))) -}}
  {{- end -}}
  {{- range $step := (get $all.ensembles $model | default (list $model)) -}}
    {{- $_ := set $steps $step (get $processes $step) -}}
  {{- end -}}
{{- end -}}
{{- $reserved := 0 -}}
{{- $pool := 0 -}}
{{- range $steps -}}
  {{- $reserved = max $reserved (int64 .reserved_bytes) -}}
  {{- $pool = add $pool (int64 .pool_bytes) -}}
{{- end -}}
{{- $shm := 0 -}}
{{- $memory := int64 $all.server_bytes -}}
{{- $cores := int64 .Values.cores -}}
{{- $instances := dict -}}
{{- range $name, $step := $steps -}}
  {{- $count := add (int64 $step.fixed) (mul (int64 $step.per_core) $cores) -}}
  {{- $_ := set $instances $name $count -}}
  {{- $shm = add $shm (mul $count (max $reserved (int64 $step.request_bytes))) -}}
  {{- $memory = add $memory (mul $count (int64 $step.process_bytes)) -}}
{{- end -}}
{{- $mib := 1048576 -}}
{{- $shm_mib := div (add $shm (sub $mib 1)) $mib -}}
{{- $memory_mib := add $shm_mib (div (add $memory (sub $mib 1)) $mib) -}}
{{- if ne .Values.target "cpu" -}}
  {{- $memory_mib = add $memory_mib (mul 1024 (trimSuffix "Gi" .Values.gpu.hostMemory | int64)) -}}
{{- end -}}
{{- $grace := add .Values.drain.delaySeconds .Values.drain.unreadySeconds .Values.drain.timeoutSeconds (int64 $all.exit_timeout_s) 5 -}}
{{- dict "models" $models "instances" $instances "reserved_bytes" $reserved "pool_bytes" $pool "shm_mib" $shm_mib "memory_mib" $memory_mib "grace_s" $grace "ports" $all.ports "start_s" $all.start_timeout_s "restrictions" $all.restrictions "token_restrictions" $all.token_restrictions "metrics_port" (ternary $all.ports.health $all.ports.metrics .Values.supervised) "scaling" $all.scaling | toJson -}}
{{- end -}}
