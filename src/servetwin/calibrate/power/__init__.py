"""Power that was measured: recording it, and learning a machine's constants from it."""
