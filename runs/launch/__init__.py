"""Many runs at once: jobs, the engines that carry them out, sweeps, and what is known of their state."""

from runs.launch.jobs import Outcome
from runs.launch.launching import LaunchOptions, launch, require_finished

__all__ = ["LaunchOptions", "Outcome", "launch", "require_finished"]
