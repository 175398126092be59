{{/*
The files that Weir reads: a YAML list of folders below /etc/weir, each with its source and,
for each file, the variable that names it. Variables, mounts and volumes are generated from this list.
Folders are mounted as a whole, never by subPath, because Kubernetes updates only whole folders; and only
the keys named here are mounted, because the Secret of an authority may also contain its private key.
*/}}
{{- define "weir.folders" -}}
{{- $fullname := include "weir.fullname" . -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {{ include "weir.tlsSecret" . }}
  files:
    - {key: tls.crt, env: WEIR_TLS_CERT_FILE}
    - {key: tls.key, env: WEIR_TLS_KEY_FILE}
{{- with .Values.tls.clientCa }}
{{- if .existingSecret }}
- name: client-ca
  secret: {{ .existingSecret }}
  files:
    - {key: {{ .key }}, env: WEIR_TLS_CLIENT_CA_FILE}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.auth.jwt }}
{{- if .jwksSecret }}
- name: jwks
  secret: {{ .jwksSecret }}
  files:
    - {key: {{ .jwksKey }}, env: WEIR_JWKS_FILE}
{{- end }}
{{- if .caSecret }}
- name: jwks-ca
  secret: {{ .caSecret }}
  files:
    - {key: {{ .caKey }}, env: WEIR_JWKS_CA_FILE}
{{- end }}
{{- end }}
{{- with .Values.auth.apiKeys }}
{{- if or .keys .existingSecret }}
- name: api-keys
  {{- if .keys }}
  configMap: {{ $fullname }}-api-keys
  {{- else }}
  secret: {{ .existingSecret }}
  {{- end }}
  files:
    - {key: {{ .key }}, env: WEIR_API_KEYS_FILE}
{{- end }}
{{- end }}
{{- with .Values.policy }}
{{- if or .document .existingConfigMap }}
- name: policy
  configMap: {{ .existingConfigMap | default (printf "%s-policy" $fullname) }}
  files:
    - {key: {{ .key }}, env: WEIR_POLICY_FILE}
{{- end }}
{{- end }}
{{- with .Values.tokenKeys }}
{{- if .existingSecret }}
- name: token-keys
  secret: {{ .existingSecret }}
  files:
    - {key: {{ .key }}, env: WEIR_TOKEN_KEY_FILE}
{{- end }}
{{- end }}
{{- with .Values.admin }}
{{- if .tokenSecret }}
- name: admin-token
  secret: {{ .tokenSecret }}
  files:
    - {key: {{ .tokenKey }}, env: WEIR_ADMIN_TOKEN_FILE}
{{- end }}
{{- end }}
{{- with .Values.mongodb.filesSecret }}
- name: mongodb
  secret: {{ . }}
{{- end }}
{{- end -}}

{{- define "weir.volumes" -}}
{{- range include "weir.folders" . | fromYamlArray }}
- name: {{ .name }}
  {{- if .secret }}
  secret:
    secretName: {{ .secret }}
  {{- else }}
  configMap:
    name: {{ .configMap }}
  {{- end }}
    # Readable by the group, which is the pod's fsGroup.
    defaultMode: 0440
    {{- with .files }}
    items:
      {{- range . }}
      - key: {{ .key }}
        path: {{ .key }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "weir.volumeMounts" -}}
{{- range include "weir.folders" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: /etc/weir/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* A value of settings in its flag's notation. Numbers of a values file arrive as floats, and a large one
would be formatted as 1e+06. */}}
{{- define "weir.setting" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "weir.env" -}}
- name: MONGODB_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mongodb.existingSecret }}
      key: {{ .Values.mongodb.uriKey }}
- name: WEIR_LISTEN
  value: "{{ .Values.listenAddress }}:50051"
- name: WEIR_ADMIN_LISTEN
  value: "{{ .Values.listenAddress }}:9090"
- name: WEIR_SHUTDOWN_GRACE
  value: {{ printf "%ds" (int .Values.shutdown.graceSeconds) }}
{{- if not (and (include "weir.encrypts" .) (include "weir.knowsCallers" .)) }}
# Because mesh.enabled or insecure is set.
- name: WEIR_ALLOW_INSECURE
  value: "true"
{{- end }}
{{- $istio := and .Values.mesh.enabled (eq .Values.mesh.kind "istio") }}
{{- if and .Values.networkPolicy.enabled (not $istio) (not .Values.admin.tokenSecret) }}
# Because networkPolicy.adminFrom says who reaches the port, besides kubelets. Istio's port 15008 may go past that.
- name: WEIR_ALLOW_OPEN_METRICS
  value: "true"
{{- end }}
{{- range include "weir.folders" . | fromYamlArray }}
{{- $folder := .name }}
{{- range .files }}
- name: {{ .env }}
  value: /etc/weir/{{ $folder }}/{{ .key }}
{{- end }}
{{- end }}
{{- if and .Values.tls.enabled .Values.tls.clientCa.existingSecret }}
- name: WEIR_TLS_CLIENT_AUTH
  value: {{ .Values.tls.clientAuth }}
{{- end }}
{{- with .Values.auth.jwt }}
{{- if .jwksUrl }}
- name: WEIR_JWKS_URL
  value: {{ .jwksUrl | quote }}
{{- end }}
{{- if or .jwksUrl .jwksSecret }}
- name: WEIR_JWT_ISSUER
  value: {{ .issuer | quote }}
- name: WEIR_JWT_AUDIENCE
  value: {{ join "," .audiences | quote }}
{{- end }}
{{- end }}
{{- if .Values.auth.certificates }}
- name: WEIR_AUTH_CERTIFICATES
  value: "true"
{{- end }}
{{- range $flag, $value := .Values.settings }}
- name: WEIR_{{ $flag | replace "-" "_" | upper }}
  value: {{ include "weir.setting" $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* gRPC on the client port is the best check, but kubelets speak neither TLS nor a mesh's mTLS. */}}
{{- define "weir.readinessKind" -}}
{{- $kind := .Values.probes.readiness.kind -}}
{{- if ne $kind "auto" -}}
{{- $kind -}}
{{- else if or .Values.tls.enabled .Values.mesh.enabled -}}
http
{{- else -}}
grpc
{{- end -}}
{{- end -}}

{{/* Annotations that a mesh needs for pods with long streams. */}}
{{- define "weir.meshAnnotations" -}}
{{- if .Values.mesh.enabled }}
{{- $drain := add .Values.shutdown.preStopSeconds .Values.shutdown.graceSeconds 3 }}
{{- if eq .Values.mesh.kind "istio" }}
# The sidecar gets SIGTERM when Weir's preStop begins, and by default cuts all connections 5 s later.
proxy.istio.io/config: |
  terminationDrainDuration: {{ $drain }}s
# Kubelets and a Prometheus outside of the mesh use the admin port; and through the sidecar
# all callers would seem to be on this machine, and such callers have more rights.
traffic.sidecar.istio.io/excludeInboundPorts: "9090"
{{- else if eq .Values.mesh.kind "linkerd" }}
{{- if .Values.mesh.inject }}
linkerd.io/inject: enabled
{{- end }}
# Refuses calls without mTLS, which the default accepts.
config.linkerd.io/default-inbound-policy: all-authenticated
# Kubelets and a Prometheus outside of the mesh use the admin port; and through the proxy
# all callers would seem to be on this machine, and such callers have more rights.
config.linkerd.io/skip-inbound-ports: "9090"
{{- if .Values.shutdown.preStopSeconds }}
# The proxy accepts new calls for as long as Weir's own preStop.
config.alpha.linkerd.io/proxy-wait-before-exit-seconds: {{ .Values.shutdown.preStopSeconds | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
