"""The commands of `ray-distil`, one file each; the scripts in jobs/ call them too."""
