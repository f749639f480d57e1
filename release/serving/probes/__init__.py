"""The checks of `lockstep verify`: each asks one server, and says pass, fail or unavailable with its reason."""
