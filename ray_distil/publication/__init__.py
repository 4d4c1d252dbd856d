"""Data sets in the form of Hugging Face's hub, made of a run."""
