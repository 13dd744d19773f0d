"""The settings that ``auto`` chooses, the cost of training, and the recommendation of a family."""
