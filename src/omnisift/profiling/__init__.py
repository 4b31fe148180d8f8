"""Cost of a question by stage: measured on a clip, or counted from a configuration."""
