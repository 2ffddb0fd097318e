"""Encoding and forward passes as plain objects; nothing here knows Ray."""
