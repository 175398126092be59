{{/* Not empty if Weir encrypts, or authenticates callers, by itself. A required client certificate
counts as authentication. */}}
{{- define "weir.encrypts" -}}
{{- if .Values.tls.enabled }}yes{{ end -}}
{{- end -}}
{{- define "weir.knowsCallers" -}}
{{- $auth := .Values.auth -}}
{{- $certificates := and .Values.tls.enabled .Values.tls.clientCa.existingSecret -}}
{{- $required := and $certificates (eq .Values.tls.clientAuth "required") -}}
{{- if or $auth.jwt.jwksUrl $auth.jwt.jwksSecret $auth.apiKeys.keys $auth.apiKeys.existingSecret $auth.certificates $required }}yes{{ end -}}
{{- end -}}

{{/* The bytes of a quantity or a size in whole units; 0 for others. */}}
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

{{/* Checks that the schema cannot express. All failures are reported together. */}}
{{- define "weir.check" -}}
{{- $wrong := list -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- $wrong = append $wrong "image.repository: set it to the repository of your build of Weir's Dockerfile, such as registry.example/weir" -}}
{{- end -}}
{{- if not $v.mongodb.existingSecret -}}
{{- $wrong = append $wrong "mongodb.existingSecret: name a Secret whose key uri contains MongoDB's connection string: kubectl create secret generic weir-mongodb --from-file=uri=FILE" -}}
{{- end -}}

{{- $missing := list -}}
{{- if not (include "weir.encrypts" .) }}{{ $missing = append $missing "encryption (tls.enabled)" }}{{ end -}}
{{- if not (include "weir.knowsCallers" .) }}{{ $missing = append $missing "authentication (auth.jwt, auth.apiKeys, auth.certificates, or tls.clientCa with clientAuth: required)" }}{{ end -}}
{{- if and $missing (not (or $v.mesh.enabled $v.insecure)) -}}
{{- $wrong = append $wrong (printf "there is no %s: whoever reaches the port could watch what Weir's MongoDB user may read, or read the traffic. Enable it; or set mesh.enabled where a service mesh provides it; or set insecure to try Weir with unimportant data" (join " and no " $missing)) -}}
{{- end -}}

{{- if and $v.mesh.enabled (not $v.mesh.kind) -}}
{{- $wrong = append $wrong "mesh.kind: set it to istio, linkerd or other" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.certManager.enabled) (not $v.tls.existingSecret) -}}
{{- $wrong = append $wrong "tls: name a Secret of type kubernetes.io/tls in tls.existingSecret, or let tls.certManager create one" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled $v.tls.existingSecret -}}
{{- $wrong = append $wrong "tls: existingSecret and certManager are two sources of one certificate; keep one" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- $wrong = append $wrong "tls.certManager.issuerRef.name: name the issuer that signs the certificate" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (or $v.tls.existingSecret $v.tls.certManager.enabled $v.tls.clientCa.existingSecret) -}}
{{- $wrong = append $wrong "tls.enabled: a certificate is set, but TLS is off; set it to true, or remove the certificate" -}}
{{- end -}}
{{- if and $v.auth.certificates (not $v.tls.clientCa.existingSecret) -}}
{{- $wrong = append $wrong "auth.certificates: needs tls.clientCa.existingSecret, the authorities that certificates are verified with" -}}
{{- end -}}
{{- with $v.auth.jwt -}}
{{- if and .jwksUrl .jwksSecret -}}
{{- $wrong = append $wrong "auth.jwt: jwksUrl and jwksSecret are two sources of one set of keys; keep one" -}}
{{- end -}}
{{- if and (or .jwksUrl .jwksSecret) (not (and .issuer .audiences)) -}}
{{- $wrong = append $wrong "auth.jwt: set issuer and audiences; without them a token for another service would be accepted" -}}
{{- end -}}
{{- if and (or .issuer .audiences) (not (or .jwksUrl .jwksSecret)) -}}
{{- $wrong = append $wrong "auth.jwt: issuer or audiences are set, but no keys; set jwksUrl or jwksSecret" -}}
{{- end -}}
{{- if and .caSecret (not .jwksUrl) -}}
{{- $wrong = append $wrong "auth.jwt.caSecret: applies only to jwksUrl, which is not set; set jwksUrl, or remove caSecret" -}}
{{- end -}}
{{- end -}}
{{- if and $v.auth.apiKeys.keys $v.auth.apiKeys.existingSecret -}}
{{- $wrong = append $wrong "auth.apiKeys: keys and existingSecret are two sources of one file; keep one" -}}
{{- end -}}
{{- if and $v.policy.document $v.policy.existingConfigMap -}}
{{- $wrong = append $wrong "policy: document and existingConfigMap are two sources of one file; keep one" -}}
{{- end -}}

{{- if and $v.tls.enabled (eq $v.probes.readiness.kind "grpc") -}}
{{- $wrong = append $wrong "probes.readiness.kind: Kubernetes' grpc probe does not support TLS; use auto or http" -}}
{{- end -}}
{{- with $v.podDisruptionBudget -}}
{{- if .enabled -}}
{{- if eq (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) -}}
{{- $wrong = append $wrong "podDisruptionBudget: set one of minAvailable and maxUnavailable, and the other to null" -}}
{{- end -}}
{{- $fewest := ternary $v.autoscaling.minReplicas $v.replicas $v.autoscaling.enabled -}}
{{- if and (not (kindIs "string" .minAvailable)) (not (kindIs "invalid" .minAvailable)) -}}
{{- if ge (int .minAvailable) (int $fewest) -}}
{{- $wrong = append $wrong (printf "podDisruptionBudget.minAvailable: %d of %d pods would block every node drain; set it to null, and maxUnavailable to 1" (int .minAvailable) (int $fewest)) -}}
{{- end -}}
{{- end -}}
{{- if or (eq (toString .minAvailable) "100%") (eq (toString .maxUnavailable) "0%") (eq (toString .maxUnavailable) "0") -}}
{{- $wrong = append $wrong "podDisruptionBudget: would block every node drain; set maxUnavailable to 1" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- $wrong = append $wrong "autoscaling.minReplicas: is greater than maxReplicas; lower it, or raise maxReplicas" -}}
{{- end -}}
{{- if not (or .cpu .watches) -}}
{{- $wrong = append $wrong "autoscaling: has no metric to scale by; set cpu or watches" -}}
{{- end -}}
{{- if and .cpu (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- $wrong = append $wrong "autoscaling.cpu: is a percentage of resources.requests.cpu, which is not set; set it, or set cpu to 0" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.grpcFrom) -}}
{{- $wrong = append $wrong "networkPolicy.grpcFrom: is empty, so no client could connect; name the clients, or use [{podSelector: {}}] for every pod of the namespace" -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (get $v.settings "otlp-endpoint") (not $v.networkPolicy.egress.otlp.ports) -}}
{{- $wrong = append $wrong "networkPolicy.egress.otlp.ports: is empty, so settings.otlp-endpoint could not be reached; add its port" -}}
{{- end -}}
{{- $limit := include "weir.bytes" (dig "limits" "memory" "0" $v.resources | include "weir.setting") | int64 -}}
{{- $held := include "weir.bytes" (default "1GiB" (get $v.settings "memory-limit")) | int64 -}}
{{- if and $limit (gt $held (div (mul $limit 3) 4)) -}}
{{- $wrong = append $wrong (printf "settings.memory-limit: is more than 3/4 of resources.limits.memory (%s), so the kernel may kill Weir, which also uses memory outside of this limit; lower it, or raise resources.limits.memory" (toString $v.resources.limits.memory)) -}}
{{- end -}}
{{- $strategy := $v.strategy.rollingUpdate | default dict -}}
{{- if and (eq $v.strategy.type "Recreate") $v.strategy.rollingUpdate -}}
{{- $wrong = append $wrong "strategy.rollingUpdate: applies only to type RollingUpdate; set it to null" -}}
{{- end -}}

{{- $named := dict -}}
{{- range include "weir.env" . | fromYamlArray -}}
{{- if hasKey $named .name -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is set by the chart; remove it, and use the chart's value" .name) -}}
{{- end -}}
{{- $_ := set $named .name true -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\nThese values cannot be used:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}
