"""Makes `helpers` importable: pytest puts this folder on the path because this file is in it."""
