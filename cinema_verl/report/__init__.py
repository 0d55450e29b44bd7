"""The run report: what a training run left on the disk, as one HTML file that needs nothing else."""
