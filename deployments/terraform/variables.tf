variable "account_id" {
  description = "Prefect Cloud account; null for a server of one's own (PREFECT_API_URL)."
  type        = string
  default     = null
}

variable "workspace_id" {
  description = "Prefect Cloud workspace; null for a server of one's own."
  type        = string
  default     = null
}

variable "work_pool" {
  description = "Name of the work pool; the worker (../kubernetes/worker-values.yaml) has to have the same."
  type        = string
  default     = "dwh-kubernetes"
}

variable "image" {
  description = "Image built from ../Dockerfile, with its tag."
  type        = string
}

variable "sources" {
  description = "Sources to load, each with a deployment of its own; secret `dwh` holds <source>_url of each."
  type        = set(string)
  default     = ["shop"]
}

variable "sources_folder" {
  description = "Folder in the image with source declarations of your own (DWH_SOURCES); null for none."
  type        = string
  default     = null
}

variable "lake" {
  description = "Folder or fsspec URL of the lake."
  type        = string
}

variable "alert_to" {
  description = "Who is mailed; several with commas between them."
  type        = string
}

variable "slack_webhook_url" {
  description = "Webhook of a Slack channel; null for none."
  type        = string
  default     = null
  sensitive   = true
}
