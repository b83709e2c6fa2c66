"""Throughput, overhead and memory, measured against what people would use instead; see docs/performance.md."""
