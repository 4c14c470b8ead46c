"""A cache and its sources put together, in a daemon or a command's process: fetching, verifying, exporting content."""
