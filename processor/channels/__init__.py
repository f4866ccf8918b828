"""How alerts leave the service: by a signed webhook, by mail."""
