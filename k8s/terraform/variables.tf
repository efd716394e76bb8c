variable "name" {
  description = "Names everything here."
  type        = string
  default     = "aiproxy-staging"
}

variable "namespace" {
  description = "The overlay's namespace."
  type        = string
  default     = "aiproxy-staging"
}

variable "region" {
  description = "Where it runs, as DigitalOcean calls it."
  type        = string
  default     = "fra1"
}

variable "kubernetes_version" {
  description = "The minor version, such as 1.34; patches are applied by themselves."
  type        = string
}

variable "node_size" {
  description = "A worker needs a core; two workers are one pod."
  type        = string
  default     = "s-4vcpu-8gb"
}

variable "nodes" {
  description = "Fewest and most nodes."
  type        = object({ min = number, max = number })
  default     = { min = 2, max = 5 }

  validation {
    condition     = var.nodes.min >= 2 && var.nodes.max >= var.nodes.min
    error_message = "Two nodes at least, or no pod may go while another is replaced."
  }
}

variable "database_size" {
  description = "Of each of PostgreSQL's nodes."
  type        = string
  default     = "db-s-2vcpu-4gb"
}

variable "database_nodes" {
  description = "2: with a standby."
  type        = number
  default     = 2
}

variable "zone_id" {
  description = "Cloudflare's id of the zone."
  type        = string
}

variable "hostname" {
  description = "The name that clients use, in full."
  type        = string
}

variable "load_balancer_ip" {
  description = "Where the ingress controller or the gateway listens; empty until it has been installed."
  type        = string
  default     = ""
}

variable "dns_token" {
  description = "A token of Cloudflare's that may edit this zone's DNS and no more: cert-manager proves the name with it."
  type        = string
  sensitive   = true
}

variable "registry" {
  description = "Who pulls the image: a user of GHCR, and a token of theirs that may read packages and no more."
  type        = object({ user = string, token = string })
  sensitive   = true
}
