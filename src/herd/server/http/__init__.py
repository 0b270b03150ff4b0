"""HTTP: connections and the order in which they are served, framing, allowed hosts, bodies, errors in each dialect's
form."""
