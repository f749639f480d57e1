"""What tells others what git says: MLflow's model registry and tags; and what git expects to be: images, clusters.

No mirror decides anything, and none is ever read back into git. A promotion updates the mirrors once
(``update.update_mirrors``). `lockstep reconcile` finds what they missed and what was changed in them by hand; with
--fix it writes it again from git.
"""
