"""Experiments: a question, the steps that answer it, and claims that hold or do not, on a machine."""
