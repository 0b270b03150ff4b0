"""Planning: memory and work of a model, as arithmetic on its config."""
