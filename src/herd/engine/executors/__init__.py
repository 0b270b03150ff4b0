"""Where a core runs: `executor` is what a front needs of it; a `thread` of this process, a `child` process."""
