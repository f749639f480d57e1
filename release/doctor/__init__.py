"""doctor: checks what this machine, or the repository on GitHub, lacks, and names the command that fixes it."""

from release.doctor.check import Check
from release.doctor.machine import doctor
from release.doctor.on_github import on_github

__all__ = ["Check", "doctor", "on_github"]
