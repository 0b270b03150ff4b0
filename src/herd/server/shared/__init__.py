"""What the dialects share beside the service: they are siblings, and none imports another."""
