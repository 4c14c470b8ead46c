"""The Python API: mounts (``mounting``), running mounts (``mounts``), repos looked at without mounting (``repos``).

``hffs`` exports its public names; the command line is written on it. Nothing heavy is imported before it is needed.
Starts no thread; what it gives may be used from one thread at a time.
"""
