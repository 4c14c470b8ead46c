"""The Python API: ``mount``, running mounts (``mounts``), jobs (``hydrate``, ``verify``), repos, the cache, ``doctor``.

``hffs`` exports its public names; the command line is written on it. Nothing heavy is imported before it is needed.
Starts no thread but those of jobs; what it returns may be used from one thread at a time.
"""
