"""doctor: what this machine, or the repository on GitHub, has and lacks, and the command that fixes it."""

from release.doctor.check import Check
from release.doctor.machine import doctor
from release.doctor.on_github import on_github

__all__ = ["Check", "doctor", "on_github"]
