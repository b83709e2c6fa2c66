"""Attempts to harm whoever opens a file from somebody else, each with its reasoning, and each refused.

``python -m attacks`` carries them all out, in folders of their own that are removed again, and says what came of
each; ``python -m attacks NAME`` those of one module. tests/faults/test_attacks.py does the same; those on the demo
page, script_in_browser_page.py, take a browser: tests/site/test_demo_attacks.py. SECURITY.md says what is
promised, and what is not.
"""
