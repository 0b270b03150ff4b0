"""Where a core runs: `executor` is the interface, `thread` a thread of this process, `child` another process."""
