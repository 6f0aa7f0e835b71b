"""The models that ship, one file each."""
