"""Operation sets: `contract` states each operation, `torch` is its reference, `native` is C++ on the CPU."""
