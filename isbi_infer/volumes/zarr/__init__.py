"""Chunked volumes over tensorstore: OME-Zarr, plain Zarr, N5 and precomputed ones as sources, OME-Zarr as a sink."""
