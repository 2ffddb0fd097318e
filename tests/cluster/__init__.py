"""Clusters of machines: the job submitted to a real one, and the files that describe others."""
