"""HTTP itself: connections and whose turn it is, framing, hosts, bodies, errors as dialects' clients know them."""
