"""Other programs' settings, and the service as a systemd unit."""
