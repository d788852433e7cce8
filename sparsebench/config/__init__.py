"""From overrides to configs, run ids and objects: the only place where configs become objects."""
