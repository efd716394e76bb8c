# The cluster, PostgreSQL beside it in one private network, the names, and what pods need to pull the image. What runs in the
# cluster is k8s/overlays; its secrets are made there, too.

resource "digitalocean_vpc" "this" {
  name   = var.name
  region = var.region
}

data "digitalocean_kubernetes_versions" "this" {
  version_prefix = "${var.kubernetes_version}."
}

resource "digitalocean_kubernetes_cluster" "this" {
  name          = var.name
  region        = var.region
  version       = data.digitalocean_kubernetes_versions.this.latest_version
  vpc_uuid      = digitalocean_vpc.this.id
  ha            = true
  auto_upgrade  = true
  surge_upgrade = true

  maintenance_policy {
    day        = "sunday"
    start_time = "04:00"
  }

  node_pool {
    name       = "workers"
    size       = var.node_size
    auto_scale = true
    min_nodes  = var.nodes.min
    max_nodes  = var.nodes.max
  }

  lifecycle {
    ignore_changes = [version] # DigitalOcean upgrades it
  }
}

resource "digitalocean_database_cluster" "this" {
  name                 = var.name
  engine               = "pg"
  version              = "17"
  size                 = var.database_size
  region               = var.region
  node_count           = var.database_nodes
  private_network_uuid = digitalocean_vpc.this.id

  maintenance_window {
    day  = "sunday"
    hour = "02:00:00"
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "digitalocean_database_db" "this" {
  cluster_id = digitalocean_database_cluster.this.id
  name       = "aiproxy"
}

# Only the cluster's nodes reach it.
resource "digitalocean_database_firewall" "this" {
  cluster_id = digitalocean_database_cluster.this.id

  rule {
    type  = "k8s"
    value = digitalocean_kubernetes_cluster.this.id
  }
}

resource "kubernetes_namespace_v1" "this" {
  metadata {
    name = var.namespace
    labels = {
      "pod-security.kubernetes.io/enforce" = "restricted"
    }
  }
}

resource "kubernetes_secret_v1" "registry" {
  metadata {
    name      = "ghcr"
    namespace = kubernetes_namespace_v1.this.metadata[0].name
  }

  type = "kubernetes.io/dockerconfigjson"

  data = {
    ".dockerconfigjson" = jsonencode({
      auths = {
        "ghcr.io" = {
          auth = base64encode("${var.registry.user}:${var.registry.token}")
        }
      }
    })
  }
}
