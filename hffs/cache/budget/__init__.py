"""The size limit of a cache directory: reservations, eviction, the ledger shared by processes."""
