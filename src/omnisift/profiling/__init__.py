"""What a question costs, stage by stage: measured on a clip, or counted from a configuration alone."""
