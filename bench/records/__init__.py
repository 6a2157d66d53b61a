"""What lies in the results folder: records, claims, signs of life, checkpoints, and how they are read and written."""
