{{/* Whether Weir encrypts by itself, and whether it knows who calls: not empty if so. A client
certificate that must be shown says that its holder may call. */}}
{{- define "weir.encrypts" -}}
{{- if .Values.tls.enabled }}yes{{ end -}}
{{- end -}}
{{- define "weir.knowsCallers" -}}
{{- $auth := .Values.auth -}}
{{- $certificates := and .Values.tls.enabled .Values.tls.clientCa.existingSecret -}}
{{- $required := and $certificates (eq .Values.tls.clientAuth "required") -}}
{{- if or $auth.jwt.jwksUrl $auth.jwt.jwksSecret $auth.apiKeys.keys $auth.apiKeys.existingSecret $auth.certificates $required }}yes{{ end -}}
{{- end -}}

{{/* Bytes of a quantity or a size, whole ones; 0 for what it does not know. */}}
{{- define "weir.bytes" -}}
{{- $text := toString . -}}
{{- $units := dict "" 1 "B" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 "TiB" 1099511627776 -}}
{{- $unit := regexReplaceAll "^[0-9]+" $text "" -}}
{{- if and (regexMatch "^[0-9]+[a-zA-Z]*$" $text) (hasKey $units $unit) -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $units $unit | int64) -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{/* What no schema can say. All of it is told at once. */}}
{{- define "weir.check" -}}
{{- $wrong := list -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- $wrong = append $wrong "image.repository: say where your build of Weir's Dockerfile is, such as registry.example/weir" -}}
{{- end -}}
{{- if not $v.mongodb.existingSecret -}}
{{- $wrong = append $wrong "mongodb.existingSecret: name a Secret whose key uri holds MongoDB's connection string: kubectl create secret generic weir-mongodb --from-file=uri=FILE" -}}
{{- end -}}

{{- $missing := list -}}
{{- if not (include "weir.encrypts" .) }}{{ $missing = append $missing "encryption (tls.enabled)" }}{{ end -}}
{{- if not (include "weir.knowsCallers" .) }}{{ $missing = append $missing "authentication (auth.jwt, auth.apiKeys, auth.certificates, or tls.clientCa with clientAuth: required)" }}{{ end -}}
{{- if and $missing (not (or $v.mesh.enabled $v.insecure)) -}}
{{- $wrong = append $wrong (printf "there is no %s: whoever reaches the port may watch what Weir's MongoDB user may, or read it on the way. Turn it on; or set mesh.enabled where a service mesh provides it; or, to try Weir on data that nobody minds, insecure" (join " and no " $missing)) -}}
{{- end -}}

{{- if and $v.mesh.enabled (not $v.mesh.kind) -}}
{{- $wrong = append $wrong "mesh.kind: say which, istio, linkerd or other" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.certManager.enabled) (not $v.tls.existingSecret) -}}
{{- $wrong = append $wrong "tls: name a Secret of type kubernetes.io/tls in tls.existingSecret, or have tls.certManager make one" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled $v.tls.existingSecret -}}
{{- $wrong = append $wrong "tls: existingSecret and certManager are two sources of one certificate; keep one" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- $wrong = append $wrong "tls.certManager.issuerRef.name: name the issuer that is to sign" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (or $v.tls.existingSecret $v.tls.certManager.enabled $v.tls.clientCa.existingSecret) -}}
{{- $wrong = append $wrong "tls.enabled: a certificate is set, and TLS is off" -}}
{{- end -}}
{{- if and $v.auth.certificates (not $v.tls.clientCa.existingSecret) -}}
{{- $wrong = append $wrong "auth.certificates: needs tls.clientCa.existingSecret, whose authorities say which certificates are good" -}}
{{- end -}}
{{- with $v.auth.jwt -}}
{{- if and .jwksUrl .jwksSecret -}}
{{- $wrong = append $wrong "auth.jwt: jwksUrl and jwksSecret are two sources of one set of keys; keep one" -}}
{{- end -}}
{{- if and (or .jwksUrl .jwksSecret) (not (and .issuer .audiences)) -}}
{{- $wrong = append $wrong "auth.jwt: say issuer and audiences, without which a token made for another service would do" -}}
{{- end -}}
{{- if and (or .issuer .audiences) (not (or .jwksUrl .jwksSecret)) -}}
{{- $wrong = append $wrong "auth.jwt: an issuer or audiences are set, and no keys (jwksUrl or jwksSecret)" -}}
{{- end -}}
{{- if and .caSecret (not .jwksUrl) -}}
{{- $wrong = append $wrong "auth.jwt.caSecret: is for jwksUrl, which is not set" -}}
{{- end -}}
{{- end -}}
{{- if and $v.auth.apiKeys.keys $v.auth.apiKeys.existingSecret -}}
{{- $wrong = append $wrong "auth.apiKeys: keys and existingSecret are two sources of one file; keep one" -}}
{{- end -}}
{{- if and $v.policy.document $v.policy.existingConfigMap -}}
{{- $wrong = append $wrong "policy: document and existingConfigMap are two sources of one file; keep one" -}}
{{- end -}}

{{- if and $v.tls.enabled (eq $v.probes.readiness.kind "grpc") -}}
{{- $wrong = append $wrong "probes.readiness.kind: Kubernetes' grpc probe speaks no TLS; leave it at auto, or say http" -}}
{{- end -}}
{{- with $v.podDisruptionBudget -}}
{{- if .enabled -}}
{{- if eq (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) -}}
{{- $wrong = append $wrong "podDisruptionBudget: set one of minAvailable and maxUnavailable, and the other to null" -}}
{{- end -}}
{{- $fewest := ternary $v.autoscaling.minReplicas $v.replicas $v.autoscaling.enabled -}}
{{- if and (not (kindIs "string" .minAvailable)) (not (kindIs "invalid" .minAvailable)) -}}
{{- if ge (int .minAvailable) (int $fewest) -}}
{{- $wrong = append $wrong (printf "podDisruptionBudget.minAvailable: %d of %d pods would let no node be drained; set maxUnavailable: 1 instead" (int .minAvailable) (int $fewest)) -}}
{{- end -}}
{{- end -}}
{{- if or (eq (toString .minAvailable) "100%") (eq (toString .maxUnavailable) "0%") (eq (toString .maxUnavailable) "0") -}}
{{- $wrong = append $wrong "podDisruptionBudget: would let no node be drained; set maxUnavailable: 1" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- $wrong = append $wrong "autoscaling: minReplicas is over maxReplicas" -}}
{{- end -}}
{{- if not (or .cpu .watches) -}}
{{- $wrong = append $wrong "autoscaling: say by what, cpu or watches" -}}
{{- end -}}
{{- if and .cpu (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- $wrong = append $wrong "autoscaling.cpu: is a share of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.grpcFrom) -}}
{{- $wrong = append $wrong "networkPolicy.grpcFrom: names nobody, so nobody could watch; [{podSelector: {}}] is every pod of the namespace" -}}
{{- end -}}
{{- $limit := include "weir.bytes" (dig "limits" "memory" "0" $v.resources | include "weir.setting") | int64 -}}
{{- $held := include "weir.bytes" (default "1GiB" (get $v.settings "memory-limit")) | int64 -}}
{{- if and $limit (gt $held (div (mul $limit 3) 4)) -}}
{{- $wrong = append $wrong (printf "settings.memory-limit: bounds only what is read from MongoDB; in a container of %s it may be 3/4 of that at most, or the kernel kills Weir before it gives way" (toString $v.resources.limits.memory)) -}}
{{- end -}}
{{- $strategy := $v.strategy.rollingUpdate | default dict -}}
{{- if and (eq $v.strategy.type "Recreate") $v.strategy.rollingUpdate -}}
{{- $wrong = append $wrong "strategy.rollingUpdate: goes with type RollingUpdate; set it to null" -}}
{{- end -}}

{{- $named := dict -}}
{{- range include "weir.env" . | fromYamlArray -}}
{{- if hasKey $named .name -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is set by the chart; change the value that it comes from" .name) -}}
{{- end -}}
{{- $_ := set $named .name true -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\nThese values can't be used:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}
