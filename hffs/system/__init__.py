"""The machine: mount table, mountpoints, device read-ahead, service manager, log files. Knows nothing of repos."""
