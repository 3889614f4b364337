"""Real servers for the end-to-end tests, each a context manager.

Every server listens on a free loopback port, keeps its files in a directory
that the test gives it, is ready when its ``with`` block begins, and is gone
with its whole process group when the block ends.
"""
