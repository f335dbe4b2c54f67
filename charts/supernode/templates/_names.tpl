{{/* Name of everything in the release: the release's name, with "supernode" in it. */}}
{{- define "supernode.name" -}}
{{- if contains "supernode" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-supernode" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "supernode.selector" -}}
app.kubernetes.io/name: supernode
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "supernode.labels" -}}
{{ include "supernode.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "supernode.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "supernode.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "supernode.name" .) }}
{{- end }}
