"""From a training's checkpoint to one Hugging Face folder that other programs load."""
