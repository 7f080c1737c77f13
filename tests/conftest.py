"""Settings of the whole suite: hypothesis draws the same examples every time, and speed fails no example."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tbptt",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tbptt")
