"""Ask a trained policy a question over pictures, and watch it act."""
