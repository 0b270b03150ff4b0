"""Memory as arithmetic on a config."""
