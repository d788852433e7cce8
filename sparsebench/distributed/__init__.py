"""Where a model is trained: one device, or several ranks and what they tell each other."""
