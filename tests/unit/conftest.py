"""How hypothesis goes about its work."""

from hypothesis import HealthCheck, settings

# No test asserts speed: on a busy machine even the making of an example takes seconds.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
