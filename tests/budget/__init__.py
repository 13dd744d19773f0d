"""What ``model.preset: auto`` should choose for a time budget: short runs with other settings, compared by their FIDs."""
