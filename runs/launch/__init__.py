"""Many runs at once: jobs, the engines that run them, sweeps, and their status."""

from runs.launch.jobs import Outcome
from runs.launch.launching import LaunchOptions, launch, require_finished

__all__ = ["LaunchOptions", "Outcome", "launch", "require_finished"]
