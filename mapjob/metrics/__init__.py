"""Margins, metrics and their statistics: numpy in, numpy out."""
