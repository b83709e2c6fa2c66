"""The parity report, for programs and for people."""
