"""CINEMA (arXiv 2601.07298) on verl: meta-action trajectories, their reward, and diversity-preserving RL."""

__version__ = "0.1.0"
