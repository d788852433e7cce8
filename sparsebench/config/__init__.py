"""From words to configs, their names, and the objects they describe: the only door between config and objects."""
