"""The stock kinds of resources, one file each; `flock.converge.kinds` finds them by name."""
