output "database_url" {
  description = "DATABASE_URL of the secret aiproxy-secrets."
  sensitive   = true
  value = format(
    "postgres://%s:%s@%s:%d/%s?sslmode=require",
    digitalocean_database_cluster.this.user,
    digitalocean_database_cluster.this.password,
    digitalocean_database_cluster.this.private_host,
    digitalocean_database_cluster.this.port,
    digitalocean_database_db.this.name,
  )
}

output "pod_network" {
  description = "AIPROXY_TRUSTED_PROXIES of the overlay."
  value       = digitalocean_kubernetes_cluster.this.cluster_subnet
}
