"""The checks of `lockstep verify`. Each queries one server and returns pass, fail or unavailable, with a reason."""
