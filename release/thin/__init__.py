"""The files of a thin repository: Lockstep's own at the top of this repository, by links, and templates."""
