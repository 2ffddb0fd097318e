"""Hypothesis without deadlines: the machines that run these tests are shared, and a slow example is no fault."""

from hypothesis import settings

settings.register_profile("mapjob", deadline=None)
settings.load_profile("mapjob")
