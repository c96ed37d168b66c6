{{- define "labels" -}}
app: {{ .Release.Name }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "defaultRegistry" -}}
{{- .Values.systemDefaultRegistry | default .Values.global.cattle.systemDefaultRegistry | trimSuffix "/" -}}
{{- end }}

{{- define "image" -}}
{{- with include "defaultRegistry" . }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The host of Rancher's URL. Empty without Rancher, and if no ingress can have it: an IP address or a port. */ -}}
{{- define "rancherHost" -}}
{{- if .Capabilities.APIVersions.Has "management.cattle.io/v3/Setting" -}}
{{- $setting := lookup "management.cattle.io/v3" "Setting" "" "server-url" | default dict -}}
{{- with $setting.value | default $setting.default -}}
{{- $host := (urlParse .).host | trimSuffix ":443" -}}
{{- if not (regexMatch ":|^[0-9.]+$" $host) }}{{ $host }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The host of the ingress. Empty: no ingress. */ -}}
{{- define "ingressHost" -}}
{{- $enabled := toString .Values.ingress.enabled -}}
{{- if eq $enabled "true" -}}
{{- .Values.ingress.host | default (include "rancherHost" .) | required "ingress.host: the name of the operator's host; Rancher, whose host it is by default, was not found, or its server-url names an address or a port" -}}
{{- else if and (eq $enabled "auto") .Values.ingress.host -}}
{{- .Values.ingress.host -}}
{{- else if and (eq $enabled "auto") (not .Values.serverURL) -}}
{{- include "rancherHost" . -}}
{{- end -}}
{{- end }}

{{- /* The source of media: "volume", "url", or empty. */ -}}
{{- define "media" -}}
{{- if and .Values.media.volume .Values.media.url -}}
{{- fail "media.volume and media.url: media come from one of them; leave the other out" -}}
{{- else if .Values.media.volume -}}
volume
{{- else if .Values.media.url -}}
{{- $_ := required "media.sha256: what sha256sum prints of the ISO at media.url" .Values.media.sha256 -}}
url
{{- end -}}
{{- end }}

{{- /* "true" if the operator may upgrade the nodes of its cluster by itself, else empty. */ -}}
{{- define "operatorUpgrades" -}}
{{- $given := toString .Values.operatorUpgrades -}}
{{- $fleet := .Capabilities.APIVersions.Has "fleet.cattle.io/v1alpha1/Bundle" -}}
{{- $plans := .Capabilities.APIVersions.Has "upgrade.cattle.io/v1/Plan" -}}
{{- if or (eq $given "true") (and (eq $given "auto") (not (or $fleet $plans))) -}}true{{- end -}}
{{- end }}
