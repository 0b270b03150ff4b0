"""Meta's own folders: consolidated files and params.json."""
