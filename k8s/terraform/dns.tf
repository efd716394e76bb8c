# Names at Cloudflare. Not proxied: its edge would end streams after 100 s of silence, and read every prompt.
resource "cloudflare_dns_record" "this" {
  count = var.load_balancer_ip == "" ? 0 : 1

  zone_id = var.zone_id
  name    = var.hostname
  type    = "A"
  content = var.load_balancer_ip
  ttl     = 300
  proxied = false
}

# Nobody else's authority may issue a certificate for the name.
resource "cloudflare_dns_record" "caa" {
  zone_id = var.zone_id
  name    = var.hostname
  type    = "CAA"
  ttl     = 3600

  data = {
    flags = 0
    tag   = "issue"
    value = "letsencrypt.org"
  }
}

# For cert-manager's ClusterIssuer `letsencrypt` (issuer.yaml): it proves the name by DNS, so before anything listens there.
resource "kubernetes_namespace_v1" "cert_manager" {
  metadata {
    name = "cert-manager"
  }
}

resource "kubernetes_secret_v1" "dns" {
  metadata {
    name      = "cloudflare"
    namespace = kubernetes_namespace_v1.cert_manager.metadata[0].name
  }

  data = {
    token = var.dns_token
  }
}
