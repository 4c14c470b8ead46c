"""Blobs in aligned blocks on the local disk: data files, state files, locks, leases."""
